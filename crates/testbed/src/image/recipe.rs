//! What each image is made of.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::Error;
use super::deb;
use super::layer::Tree;

/// The images that there are.
pub const NAMES: &[&str] = &["busybox", "nginx", "redis", "python", "grpc"];

/// Raised when a change of this code changes the images.
const EDITION: u32 = 1;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image tells its containers; as in an OCI image config.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub stop_signal: String,
    /// As `80/tcp`.
    pub ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

pub(crate) struct Recipe {
    name: &'static str,
    base: bool,
    packages: &'static [&'static str],
    files: fn(Tree) -> Tree,
    pub(crate) config: Config,
}

/// libc, what most programs link to, and busybox as the shell and the usual tools.
const BASE: &[&str] = &["libc6", "libgcc-s1", "zlib1g", "libcrypt1", "libssl3"];

pub(crate) fn recipe(name: &str) -> Option<Recipe> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let recipe = match name {
        "busybox" => Recipe {
            name: "busybox",
            base: false,
            packages: &[],
            files: |tree| users(tree, ""),
            config: Config { cmd: words(&["sh"]), env: words(&[PATH]), ..Config::default() },
        },
        "nginx" => Recipe {
            name: "nginx",
            base: true,
            packages: &["nginx", "nginx-common", "libpcre2-8-0"],
            files: nginx,
            config: Config {
                entrypoint: words(&["/docker-entrypoint.sh"]),
                cmd: words(&["nginx", "-g", "daemon off;"]),
                env: words(&[PATH, "NGINX_VERSION=1.22.1"]),
                stop_signal: "SIGQUIT".to_owned(),
                ports: words(&["80/tcp"]),
                ..Config::default()
            },
        },
        "redis" => Recipe {
            name: "redis",
            base: true,
            packages: &[
                "redis-server",
                "redis-tools",
                "libatomic1",
                "libjemalloc2",
                "liblzf1",
                "libsystemd0",
                "libcap2",
                "libgcrypt20",
                "libgpg-error0",
                "liblz4-1",
                "liblzma5",
                "libzstd1",
                "libstdc++6",
            ],
            files: redis,
            config: Config {
                entrypoint: words(&["docker-entrypoint.sh"]),
                cmd: words(&["redis-server"]),
                env: words(&[PATH]),
                working_dir: "/data".to_owned(),
                ports: words(&["6379/tcp"]),
                volumes: words(&["/data"]),
                ..Config::default()
            },
        },
        "python" => Recipe {
            name: "python",
            base: true,
            packages: PYTHON,
            files: python,
            config: Config { cmd: words(&["python3"]), env: words(&[PATH, "LANG=C.UTF-8"]), ..Config::default() },
        },
        "grpc" => Recipe {
            name: "grpc",
            base: true,
            packages: GRPC,
            files: |tree| python(tree).file("health.py", 0o644, HEALTH),
            config: Config { cmd: words(&["python3", "/health.py"]), env: words(&[PATH, "LANG=C.UTF-8"]), ..Config::default() },
        },
        _ => return None,
    };
    Some(recipe)
}

const PYTHON: &[&str] = &[
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "media-types",
];

/// Python, and gRPC's own library for it.
const GRPC: &[&str] = &[
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libexpat1",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "python3-grpcio",
    "libabsl20220623",
    "libc-ares2",
    "libre2-9",
    "libstdc++6",
    "python3-six",
];

fn python(tree: Tree) -> Tree {
    users(tree, "").symlink("usr/local/bin/python3", "/usr/bin/python3.11").symlink("usr/local/bin/python", "python3")
}

/// `grpc.health.v1.Health` on port 9000: the service `web` serves while `/serving` exists, no other is known. The messages have one field
/// each (request: 1, a string; answer: 1, an enumeration), so they are read and written without protobuf.
const HEALTH: &str = r#"import os, sys
from concurrent import futures
sys.path.append("/usr/lib/python3/dist-packages")
import grpc

def check(request, context):
    if request[2:] != b"web":
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x01" if os.path.exists("/serving") else b"\x08\x02"

handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port("0.0.0.0:9000")
server.start()
server.wait_for_termination()
"#;

impl Recipe {
    /// Changes when the recipe does.
    pub(crate) fn fingerprint(&self) -> String {
        let base: &[&str] = if self.base { BASE } else { &[] };
        let text = format!("{EDITION} {base:?} {:?} {:?}", self.packages, self.config);
        Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn tags(&self) -> Vec<String> {
        ["1", "2", "latest"].iter().map(|tag| format!("{}:{tag}", self.name)).collect()
    }

    pub(crate) fn layers(&self, debs: &Path) -> Result<Vec<Vec<u8>>, Error> {
        if !self.base {
            return Ok(vec![(self.files)(busybox(root(), debs)?).into_layer()]);
        }
        deb::fetch(debs, &[BASE, self.packages, &["busybox-static"]].concat())?;
        let mut own = Tree::new();
        for package in self.packages {
            deb::add(&mut own, debs, package, |_| true)?;
        }
        Ok(vec![base(debs)?, (self.files)(own).into_layer()])
    }
}

/// The layer that all but busybox share.
pub(crate) fn base(debs: &Path) -> Result<Vec<u8>, Error> {
    let mut tree = root();
    for dir in deb::MERGED {
        tree = tree.dir(&format!("usr/{dir}"), 0o755, 0).symlink(dir, &format!("usr/{dir}"));
    }
    for package in BASE {
        deb::add(&mut tree, debs, package, |_| true)?;
    }
    Ok(users(busybox(tree, debs)?, "").into_layer())
}

/// The directories that every image has.
fn root() -> Tree {
    let tree = Tree::new().dir("tmp", 0o1777, 0).dir("var/tmp", 0o1777, 0).dir("root", 0o700, 0).dir("home", 0o755, 0);
    ["dev", "proc", "sys", "run", "srv", "etc", "var/log", "var/lib", "var/cache", "usr/local/bin"]
        .into_iter()
        .fold(tree, |tree, dir| tree.dir(dir, 0o755, 0))
        .symlink("var/run", "/run")
}

/// The program and a link for each of its names.
fn busybox(mut tree: Tree, debs: &Path) -> Result<Tree, Error> {
    deb::add(&mut tree, debs, "busybox-static", |path| path == "usr/bin/busybox")?;
    let merged = tree.has("bin");
    if !merged {
        tree = tree.symlink("bin", "usr/bin").symlink("sbin", "usr/sbin").dir("usr/sbin", 0o755, 0);
    }
    for applet in APPLETS.split_whitespace() {
        tree = tree.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    Ok(tree)
}

/// The applets of Debian's busybox-static that containers and tests use.
const APPLETS: &str = "[ [[ arch ash awk base64 basename cat chgrp chmod chown chroot clear cmp cp cut date dd df diff dirname du echo ed \
    egrep env expand expr factor fallocate false fgrep find fold free fuser getopt getty grep groups gunzip gzip head hexdump hostid hostname \
    httpd id ifconfig install ip kill killall less link ln ls md5sum microcom mkdir mkfifo mknod mktemp more mount mv nc netstat nice nl \
    nohup nproc nslookup od paste pgrep pidof ping ping6 pkill printf ps pwd readlink realpath renice reset rev rm rmdir route sed seq \
    setpriv setsid sh sha1sum sha256sum sha512sum shuf sleep sort split stat strings stty su sync sysctl tac tail tar tee telnet test time \
    timeout top touch tr traceroute true truncate tty umount uname uniq unlink unshare uptime usleep vi watch wc wget which whoami xargs \
    xxd xz xzcat yes zcat";

/// `/etc/passwd`, `/etc/group` and how names are looked up; `more` is `name:id`, a user with a group of the same name.
fn users(tree: Tree, more: &str) -> Tree {
    let mut passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n".to_owned();
    let mut group = "root:x:0:\ndaemon:x:1:\nadm:x:4:\n".to_owned();
    if let Some((name, id)) = more.split_once(':') {
        passwd.push_str(&format!("{name}:x:{id}:{id}:{name}:/nonexistent:/bin/false\n"));
        group.push_str(&format!("{name}:x:{id}:\n"));
    }
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n");
    group.push_str("nogroup:x:65534:\n");
    tree.file("etc/passwd", 0o644, passwd).file("etc/group", 0o644, group).file("etc/nsswitch.conf", 0o644, "hosts: files dns\n")
}

fn nginx(tree: Tree) -> Tree {
    users(tree, "nginx:101")
        .file("docker-entrypoint.sh", 0o755, "#!/bin/sh\nset -e\nexec \"$@\"\n")
        .file("etc/nginx/nginx.conf", 0o644, NGINX_CONF)
        .file("etc/nginx/conf.d/default.conf", 0o644, NGINX_DEFAULT)
        .file("usr/share/nginx/html/index.html", 0o644, NGINX_PAGE)
        .dir("var/lib/nginx", 0o755, 0)
        .dir("var/log/nginx", 0o755, 0)
        .symlink("var/log/nginx/access.log", "/dev/stdout")
        .symlink("var/log/nginx/error.log", "/dev/stderr")
}

const NGINX_CONF: &str = "user nginx;\nworker_processes auto;\nerror_log /var/log/nginx/error.log notice;\npid /run/nginx.pid;\n
events { worker_connections 1024; }\n
http {\n    include /etc/nginx/mime.types;\n    default_type application/octet-stream;\n    access_log /var/log/nginx/access.log;
    sendfile on;\n    keepalive_timeout 65;\n    include /etc/nginx/conf.d/*.conf;\n}\n";

const NGINX_DEFAULT: &str = "server {\n    listen 80;\n    server_name localhost;\n    location / {\n        root /usr/share/nginx/html;\n        index index.html;\n    }\n}\n";

const NGINX_PAGE: &str =
    "<!DOCTYPE html>\n<html>\n<head><title>Welcome to nginx!</title></head>\n<body><h1>Welcome to nginx!</h1></body>\n</html>\n";

fn redis(tree: Tree) -> Tree {
    users(tree, "redis:999").dir("data", 0o755, 999).file("usr/local/bin/docker-entrypoint.sh", 0o755, REDIS_ENTRYPOINT)
}

/// As the official one: options alone mean the server, which does not run as root. Protected mode is off, as in the official build.
const REDIS_ENTRYPOINT: &str = r#"#!/bin/sh
set -e
case "${1:-}" in -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ]; then
    shift
    set -- redis-server "$@" --protected-mode no
    if [ "$(id -u)" = 0 ]; then
        chown redis:redis .
        exec su -s /bin/sh redis -c 'exec "$0" "$@"' -- "$@"
    fi
fi
exec "$@"
"#;
