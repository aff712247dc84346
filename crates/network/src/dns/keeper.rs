//! The process that answers DNS on a node: this binary started anew, so that names are resolved while Knarr restarts, is upgraded or has crashed.
//!
//! It knows what it was last told, and goes on with that when nobody speaks to it. Descriptor 0 is the line to who started it, 1 the locked file
//! that says that it lives, 2 its log. Others reach it by its socket; the newest line is the one that it listens to. It ends by signal only, or
//! when it never began to serve.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::forward::Forwarder;
use super::server::{SHORTAGE_PAUSE, Server, is_shortage};
use super::wire::{Line, Order, Program, Report};
use super::zone::Zone;
use super::{DnsConfig, DnsError, socket_path};

/// Runs the DNS process; `run_dir` is where its socket lies. Never returns.
pub fn keeper_main(run_dir: &Path) -> ! {
    let error = match run(run_dir) {
        Ok(()) => std::process::exit(0),
        Err(error) => error,
    };
    // Descriptor 2 is the log, see above.
    eprintln!("dns: {error}");
    std::process::exit(1)
}

fn run(run_dir: &Path) -> io::Result<()> {
    // Signals of the terminal that Knarr was started from are not for it.
    rustix::process::setsid()?;
    // Each question that is asked upstream holds up to two descriptors, each connection one.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    rustix::io::write(io::stdout(), std::process::id().to_string().as_bytes())?;
    let starter = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    starter.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let path = socket_path(run_dir);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let mut keeper = Keeper { program: Program::own()?, serving: None, line: None, staged: None };
        keeper.listen_to(UnixStream::from_std(starter)?).await;
        keeper.serve(&listener).await
    })
}

struct Keeper {
    program: Program,
    serving: Option<Serving>,
    /// To the Knarr that feeds it.
    line: Option<Line>,
    /// What this line has said so far, until it is complete.
    staged: Option<Zone>,
}

struct Serving {
    config: DnsConfig,
    zone: Arc<RwLock<Zone>>,
    server: JoinHandle<Result<(), DnsError>>,
}

impl Keeper {
    async fn serve(&mut self, listener: &UnixListener) -> io::Result<()> {
        loop {
            tokio::select! {
                stream = listener.accept() => match stream {
                    Ok((stream, _)) => self.listen_to(stream).await,
                    Err(error) if is_shortage(&error) => tokio::time::sleep(SHORTAGE_PAUSE).await,
                    Err(error) => return Err(error),
                },
                order = hear(&mut self.line) => match order {
                    Ok(Some(order)) => self.obey(order).await?,
                    // Gone, or not one of us. What was half said is forgotten, what was known stays.
                    Ok(None) | Err(_) => {
                        (self.line, self.staged) = (None, None);
                        if self.serving.is_none() {
                            return Ok(());
                        }
                    }
                },
                error = ended(&mut self.serving) => return Err(error),
            }
        }
    }

    async fn listen_to(&mut self, stream: UnixStream) {
        let mut line = Line::new(stream);
        let serving = self.serving.as_ref().map(|serving| serving.config.clone());
        self.staged = serving.as_ref().and_then(Zone::of);
        // Whoever is gone already is noticed when its next order is waited for.
        let _ = line.send(&Report::Hello { program: self.program.clone(), serving }).await;
        self.line = Some(line);
    }

    async fn obey(&mut self, order: Order) -> io::Result<()> {
        match (order, &self.serving) {
            (Order::Serve(config), None) => self.begin(config).await,
            (Order::Set { namespace, name, entry }, Some(serving)) => {
                match &mut self.staged {
                    Some(zone) => zone.set(&namespace, &name, entry),
                    None => serving.zone.write().set(&namespace, &name, entry),
                }
                Ok(())
            }
            (Order::Complete, Some(serving)) => {
                if let Some(mut zone) = self.staged.take() {
                    zone.complete();
                    *serving.zone.write() = zone;
                }
                Ok(())
            }
            (order, _) => Err(io::Error::other(format!("an order out of turn: {order:?}"))),
        }
    }

    async fn begin(&mut self, config: DnsConfig) -> io::Result<()> {
        let (Some(zone), Some(line)) = (Zone::of(&config), &mut self.line) else { return Ok(()) };
        let zone = Arc::new(RwLock::new(zone));
        match Server::bind(&config.listen, zone.clone(), Forwarder::new(config.upstreams.clone(), &config.listen)).await {
            Ok(server) => {
                line.send(&Report::Serving).await?;
                self.staged = Zone::of(&config);
                self.serving = Some(Serving { config, zone, server: tokio::spawn(server.serve()) });
                Ok(())
            }
            Err(DnsError::Bind { protocol, address, source }) => {
                let errno = source.raw_os_error().unwrap_or_default();
                line.send(&Report::Refused { protocol, address, errno }).await?;
                Err(source)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

async fn hear(line: &mut Option<Line>) -> io::Result<Option<Order>> {
    match line {
        Some(line) => line.receive().await,
        None => std::future::pending().await,
    }
}

async fn ended(serving: &mut Option<Serving>) -> io::Error {
    match serving {
        Some(serving) => match (&mut serving.server).await {
            Ok(Ok(())) => io::Error::other("the server ended by itself"),
            Ok(Err(error)) => io::Error::other(error),
            Err(error) => error.into(),
        },
        None => std::future::pending().await,
    }
}
