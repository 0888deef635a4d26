//! Bytes on their way to somewhere, hashed and counted.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// Hashes and counts what goes through it.
#[derive(Debug)]
pub struct Digesting<W> {
    sink: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Digesting<W> {
    /// Passes everything on to `sink`.
    pub fn new(sink: W) -> Self {
        Self { sink, digest: Sha256::new(), bytes: 0 }
    }

    /// The sink, the SHA-256 in hexadecimal of what it has got, and how many bytes that were.
    ///
    /// # Errors
    /// If the last bytes cannot be passed on.
    pub fn finish(mut self) -> io::Result<(W, String, u64)> {
        self.sink.flush()?;
        Ok((self.sink, hex::encode(self.digest.finalize()), self.bytes))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
