//! Clients that ask one Service without a pause, and remember every fault.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::get;

/// How long the clients may go without a single answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Load {
    state: Arc<State>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    served: AtomicUsize,
}

impl Load {
    /// `clients` threads, each of which does `enter` first: it may go to another network namespace.
    pub(crate) fn start(clients: usize, address: (IpAddr, u16), enter: impl Fn() + Clone + Send + 'static) -> Self {
        let (state, began) = (Arc::<State>::default(), Instant::now());
        let client = || {
            let (state, enter) = (state.clone(), enter.clone());
            std::thread::spawn(move || {
                enter();
                let mut faults = Vec::new();
                while !state.stop.load(Ordering::Relaxed) {
                    let asked = began.elapsed();
                    match get(address) {
                        Ok(_) => drop(state.served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => faults.push(format!("asked after {asked:.1?}, told after {:.1?}: {error}", began.elapsed())),
                    }
                }
                faults
            })
        };
        let clients = std::iter::repeat_with(client).take(clients).collect();
        Self { state, clients }
    }

    /// Waits until that many more requests were answered.
    pub(crate) fn serve(&self, more: usize) {
        let (start, deadline) = (self.state.served.load(Ordering::Relaxed), Instant::now() + SILENCE_MAX);
        while self.state.served.load(Ordering::Relaxed) < start + more {
            assert!(Instant::now() < deadline, "{more} requests are answered within {SILENCE_MAX:?}");
            std::thread::yield_now();
        }
    }

    /// What went wrong, and how many requests were answered.
    pub(crate) fn stop(self) -> (Vec<String>, usize) {
        self.state.stop.store(true, Ordering::Relaxed);
        let faults = self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (faults, self.state.served.load(Ordering::Relaxed))
    }
}
