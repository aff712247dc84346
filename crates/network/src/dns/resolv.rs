//! The upstream servers, from resolv.conf.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Upstreams;

/// MAXNS of the C library (resolv.h); more are not asked by anyone.
const SERVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;

/// Upstream servers, read again when their file changed since the last question.
pub(super) struct Resolvers {
    source: Upstreams,
    own: Vec<SocketAddr>,
    read: Mutex<Option<(SystemTime, Vec<SocketAddr>)>>,
}

impl Resolvers {
    /// `own` are the addresses that this server answers on, which are never asked.
    pub(super) fn new(source: Upstreams, own: &[SocketAddr]) -> Resolvers {
        Resolvers { source, own: own.to_vec(), read: Mutex::new(None) }
    }

    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        match &self.source {
            Upstreams::Fixed(servers) => self.without_own(servers.clone()),
            Upstreams::File(path) => self.of_file(path),
        }
    }

    fn of_file(&self, path: &Path) -> Vec<SocketAddr> {
        let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut read = self.read.lock();
        match &*read {
            Some((time, servers)) if *time == changed => servers.clone(),
            _ => {
                let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
                    tracing::warn!(%error, path = %path.display(), "names outside the cluster are not resolved");
                    String::new()
                });
                let servers = self.without_own(parse(&text));
                *read = Some((changed, servers.clone()));
                servers
            }
        }
    }

    fn without_own(&self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        servers.retain(|server| !self.own.contains(server));
        servers
    }
}

/// The nameserver lines. Link-local servers with a zone (`fe80::1%eth0`) are left out.
fn parse(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let ip: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(ip, DNS_PORT))
    };
    text.lines().filter_map(address).take(SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_read() {
        let text = "# comment\nsearch example.com\nnameserver 10.0.0.2\n nameserver 2001:db8::1\nnameserver x\noptions ndots:1\n\
                    nameserver 10.43.0.10\nnameserver 10.0.0.4\n";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[2001:db8::1]:53", "10.43.0.10:53"]);
    }

    #[test]
    fn the_server_never_asks_itself_and_sees_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.43.0.10\nnameserver 10.0.0.2\n").expect("written");
        let own = "10.43.0.10:53".parse().expect("an address");
        let resolvers = Resolvers::new(Upstreams::File(path.clone()), &[own]);
        assert_eq!(resolvers.servers(), ["10.0.0.2:53".parse().expect("an address")]);
        std::fs::write(&path, "nameserver 10.0.0.3\n").expect("written");
        let later = SystemTime::now() + std::time::Duration::from_secs(2);
        std::fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(later)).expect("touched");
        assert_eq!(resolvers.servers(), ["10.0.0.3:53".parse().expect("an address")]);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(resolvers.servers(), []);
    }
}
