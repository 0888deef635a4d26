//! A TCP proxy before a real service, that can take it away and bring it back.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    mode: Arc<watch::Sender<Mode>>,
    count: Arc<Mutex<Count>>,
    task: JoinHandle<()>,
}

/// Bytes on their way to clients.
#[derive(Debug, Default)]
struct Count {
    passed: u64,
    /// What to do once so many have passed.
    then: Option<(u64, Mode)>,
}

impl Count {
    /// How many of `bytes` may pass, and what is to be done after that, if it is now.
    fn pass(&mut self, bytes: usize) -> (usize, Option<Mode>) {
        let due = self.then.filter(|(at, _)| self.passed + bytes as u64 >= *at);
        let passing = match due {
            Some((at, _)) => {
                self.then = None;
                at.saturating_sub(self.passed) as usize
            }
            None => bytes,
        };
        self.passed += passing as u64;
        (passing, due.map(|(_, mode)| mode))
    }
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
        let mode = Arc::new(mode);
        let count = Arc::<Mutex<Count>>::default();
        let target = target.to_owned();
        let (switch, counted) = (Arc::downgrade(&mode), count.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is the client's business.
                tokio::spawn(serve(client, target.clone(), modes.clone(), switch.clone(), counted.clone()));
            }
        });
        Self { address, mode, count, task }
    }

    /// Where clients connect, `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, do this.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Once `bytes` more have been passed on to clients, close the connection that they went through, or keep it open if the
    /// mode is [`Mode::Hang`], and do this from then on.
    pub fn set_after(&self, bytes: u64, mode: Mode) {
        let mut count = self.count();
        count.then = Some((count.passed + bytes, mode));
    }

    /// Bytes that were passed on to clients.
    pub fn passed(&self) -> u64 {
        self.count().passed
    }

    /// Whether what was to be done after some bytes is still to be done; it no longer is from now on.
    pub fn forget_after(&self) -> bool {
        self.count().then.take().is_some()
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    target: String,
    mut modes: watch::Receiver<Mode>,
    switch: Weak<watch::Sender<Mode>>,
    count: Arc<Mutex<Count>>,
) -> io::Result<()> {
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
                length => {
                    let (passing, then) = count.lock().unwrap_or_else(PoisonError::into_inner).pass(length);
                    client.write_all(&from_server[..passing]).await?;
                    let Some(mode) = then else { continue };
                    if let Some(switch) = switch.upgrade() {
                        switch.send_replace(mode);
                    }
                    // What did not pass is lost, so that this connection is of no further use.
                    let _ = modes.wait_for(|now| mode != Mode::Hang || *now != Mode::Hang).await;
                    return Ok(());
                }
            },
        }
    }
}
