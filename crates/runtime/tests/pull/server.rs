//! A small HTTP server that does to a client whatever a test wants, and an honest registry on it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new(), cut: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// Answers until the test's process ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, told): (Arc<Handler>, _) = (Arc::new(handler), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (handler, log) = (handler.clone(), told.clone());
                std::thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Server { address, log }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Method and path of what was asked, for paths that contain `part`.
    pub(crate) fn paths(&self, part: &str) -> Vec<String> {
        let asked = self.asked();
        asked.iter().filter(|it| it.path.contains(part)).map(|it| format!("{} {}", it.method, it.path)).collect()
    }
}

/// One request for each connection: what comes after it is another connection's.
fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        // A greeting in TLS is no text. Tell it as a web server does.
        let _ = reader.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        return;
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(_)) = (words.next(), words.next(), words.next()) else {
        let _ = reader.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        return;
    };
    let mut request = Request { method: method.to_owned(), path: path.to_owned(), headers: HashMap::new(), body: String::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = request.header("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request.body = String::from_utf8(body).unwrap();
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let stream = reader.get_mut();
    let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..reply.cut.unwrap_or(reply.body.len())] };
    // A client that hung up is the client's business.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image as a registry holds it.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// By tag and by digest: type and text.
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) manifest: Value,
    pub(crate) layers: Vec<Vec<u8>>,
}

pub(crate) fn layer(file: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, file, content).unwrap();
    tar.into_inner().unwrap()
}

impl Content {
    /// An image with two plain layers, under the tag `1`.
    pub(crate) fn new() -> Content {
        // Not compressible, and larger than one batch of a download.
        let noise: Vec<u8> = (0u32..1 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        Content::of(vec![layer("one", b"first"), layer("two", &noise)], std::env::consts::ARCH)
    }

    pub(crate) fn of(layers: Vec<Vec<u8>>, arch: &str) -> Content {
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let diffs: Vec<String> = layers.iter().map(|it| digest(it)).collect();
        let config =
            json!({"os": "linux", "architecture": arch, "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": diffs}});
        let config = config.to_string().into_bytes();
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|it| descriptor(LAYER, it)).collect::<Vec<_>>(),
        });
        let mut content = Content { blobs: HashMap::new(), manifests: HashMap::new(), manifest: manifest.clone(), layers: layers.clone() };
        for blob in layers.into_iter().chain([config]) {
            content.blobs.insert(digest(&blob), blob);
        }
        content.tag("1", MANIFEST, manifest.to_string().as_bytes());
        content
    }

    pub(crate) fn tag(&mut self, tag: &str, kind: &str, text: &[u8]) {
        for name in [tag.to_owned(), digest(text)] {
            self.manifests.insert(name, (kind.to_owned(), text.to_vec()));
        }
    }

    pub(crate) fn digest(&self, tag: &str) -> String {
        digest(&self.manifests[tag].1)
    }

    /// As an honest registry with ranges does.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if let Some((_, reference)) = path.split_once("/manifests/") {
            return match self.manifests.get(reference) {
                Some((kind, text)) => {
                    Reply::new(200).with("Content-Type", kind).with("Docker-Content-Digest", digest(text)).body(text.clone())
                }
                None => missing("MANIFEST_UNKNOWN"),
            };
        }
        let Some(blob) = path.split_once("/blobs/").and_then(|(_, digest)| self.blobs.get(digest)) else { return missing("BLOB_UNKNOWN") };
        match request.header("range").and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()) {
            None => Reply::new(200).body(blob.clone()),
            Some(from) if from >= blob.len() => Reply::new(416),
            Some(from) => {
                Reply::new(206).with("Content-Range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len())).body(&blob[from..])
            }
        }
    }
}

fn missing(code: &str) -> Reply {
    Reply::new(404).body(json!({"errors": [{"code": code, "message": "not here"}]}).to_string())
}
