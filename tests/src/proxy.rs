//! A TCP proxy before a real service, that can take it away and bring it back.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes bytes on.
    Forward,
    /// Closes every connection, old and new.
    Refuse,
    /// Keeps connections open and passes nothing on.
    Hang,
    /// Passes requests on, and closes the connection when the answer comes.
    LoseAnswers,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and forwards to `target` (`host:port`).
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (mode, modes) = watch::channel(Mode::Forward);
        let target = target.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the client's business.
                tokio::spawn(serve(client, target.clone(), modes.clone()));
            }
        });
        Self { address, mode, task }
    }

    /// Where clients connect, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, do this.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, target: String, mut modes: watch::Receiver<Mode>) -> io::Result<()> {
    if *modes.borrow() == Mode::Refuse {
        return Ok(());
    }
    let mut server = TcpStream::connect(&target).await?;
    let mut from_client = vec![0; 64 << 10];
    let mut from_server = vec![0; 64 << 10];
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Refuse {
            return Ok(());
        }
        tokio::select! {
            changed = modes.changed() => if changed.is_err() { return Ok(()) },
            read = client.read(&mut from_client), if mode != Mode::Hang => match read? {
                0 => return Ok(()),
                length => server.write_all(&from_client[..length]).await?,
            },
            read = server.read(&mut from_server), if mode != Mode::Hang => match read? {
                0 => return Ok(()),
                _ if mode == Mode::LoseAnswers => return Ok(()),
                length => client.write_all(&from_server[..length]).await?,
            },
        }
    }
}
