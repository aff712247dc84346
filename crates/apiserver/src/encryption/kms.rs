//! A key service over its Unix socket: KMS v2, which is gRPC (k8s.io/kms/apis/v2).
//!
//! One thread of its own asks for the state once a minute, every ten seconds where the answer is bad, and unwraps seeds that are not known
//! yet. A seed serves until the service's key changes; nothing is sealed with it when the last good answer is older than three minutes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::{Arc, mpsc as blocking},
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_store::{Envelope, KeyService, KeyServiceError, Wrapped};
use parking_lot::Mutex;
use prost::Message;
use tokio::{net::UnixStream, sync::mpsc};

/// How often the state is asked for; both as upstream (encryptionconfig/config.go, kmsv2PluginHealthzPositiveInterval and -NegativeInterval).
const HEALTHY_EVERY: Duration = Duration::from_secs(60);
const UNHEALTHY_EVERY: Duration = Duration::from_secs(10);
/// How long a good answer lets writes be sealed (kmsv2PluginWriteDEKSourceMaxTTL).
const GOOD_FOR: Duration = Duration::from_secs(180);
/// Seeds that are remembered. There is one for each key of the service and start of Knarr, until `knarr secrets rotate`.
const SEEDS_MAX: usize = 1_000;
/// Seeds that wait to be unwrapped. The store asks for one at a time.
const ASKED_MAX: usize = 4;
/// Bytes of an answer: a wrapped seed and its annotations have at most 34 kB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

pub(super) struct KmsSettings {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
}

/// Ends its thread when dropped.
#[derive(Debug)]
pub(super) struct Kms {
    name: String,
    state: Arc<Mutex<State>>,
    seeds: Mutex<HashMap<Wrapped, Vec<u8>>>,
    asks: mpsc::Sender<Ask>,
}

struct Ask {
    wrapped: Wrapped,
    answer: blocking::SyncSender<Result<Vec<u8>, KeyServiceError>>,
}

#[derive(Debug, Default)]
struct State {
    envelope: Option<Arc<Envelope>>,
    good_at: Option<Instant>,
    /// Why the last answer was bad.
    fault: Option<String>,
}

impl Kms {
    /// Returns after the first answer, good or bad.
    pub(super) fn start(settings: KmsSettings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let state = Arc::<Mutex<State>>::default();
        let (asks, asked) = mpsc::channel(ASKED_MAX);
        let (first, answered) = blocking::sync_channel(1);
        let name = settings.name.clone();
        let client = Client { settings, state: state.clone() };
        let thread = std::thread::Builder::new().name("kms".to_owned());
        thread.spawn(move || runtime.block_on(client.run(asked, first)))?;
        // Refused only if the thread died, which the state then shows.
        let _ = answered.recv();
        Ok(Self { name, state, seeds: Mutex::default(), asks })
    }
}

impl KeyService for Kms {
    fn name(&self) -> &str {
        &self.name
    }

    fn current(&self) -> Result<Arc<Envelope>, KeyServiceError> {
        let state = self.state.lock();
        match (&state.envelope, state.good_at) {
            (Some(envelope), Some(at)) if at.elapsed() <= GOOD_FOR => Ok(envelope.clone()),
            (Some(_), Some(at)) if state.fault.is_none() => Err(KeyServiceError::Stale { seconds: at.elapsed().as_secs() }),
            _ => Err(KeyServiceError::Call(state.fault.clone().unwrap_or_else(|| "it has not answered yet".to_owned()))),
        }
    }

    /// Also while the last good answer still serves.
    fn fault(&self) -> Option<String> {
        // The lock is gone before `current` takes it.
        let fault = self.state.lock().fault.clone();
        fault.or_else(|| self.current().err().map(|error| error.to_string()))
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, KeyServiceError> {
        if let Some(seed) = self.seeds.lock().get(wrapped) {
            return Ok(seed.clone());
        }
        let gone = || KeyServiceError::Call("its thread ended".to_owned());
        let (answer, answered) = blocking::sync_channel(1);
        let mut ask = Ask { wrapped: wrapped.clone(), answer };
        while let Err(refused) = self.asks.try_send(ask) {
            match refused {
                mpsc::error::TrySendError::Full(back) => ask = back,
                mpsc::error::TrySendError::Closed(_) => return Err(gone()),
            }
            std::thread::yield_now();
        }
        let seed = answered.recv().map_err(|_| gone())??;
        let mut seeds = self.seeds.lock();
        if seeds.len() >= SEEDS_MAX {
            seeds.clear();
        }
        seeds.insert(wrapped.clone(), seed.clone());
        Ok(seed)
    }
}

struct Client {
    settings: KmsSettings,
    state: Arc<Mutex<State>>,
}

impl Client {
    /// Until no one can ask any more.
    async fn run(self, mut asked: mpsc::Receiver<Ask>, first: blocking::SyncSender<()>) {
        let mut first = Some(first);
        loop {
            let wait = match self.poll().await {
                Ok(()) => HEALTHY_EVERY,
                Err(fault) => {
                    let fault = fault.to_string();
                    tracing::warn!(service = self.settings.name, socket = %self.settings.socket.display(), fault, "the key service gives no key");
                    self.state.lock().fault = Some(fault);
                    UNHEALTHY_EVERY
                }
            };
            if let Some(first) = first.take() {
                // Refused where whoever started the service is gone; the next ask tells.
                let _ = first.send(());
            }
            let timer = tokio::time::sleep(wait);
            tokio::pin!(timer);
            loop {
                tokio::select! {
                    () = &mut timer => break,
                    ask = asked.recv() => {
                        let Some(Ask { wrapped, answer }) = ask else { return };
                        // A caller that went away does not wait for the answer.
                        drop(answer.send(self.decrypt(wrapped).await));
                    }
                }
            }
        }
    }

    /// Asks for the state, and for a new seed to be wrapped where the service's key is another one.
    async fn poll(&self) -> Result<(), KeyServiceError> {
        let status: StatusResponse = self.call("Status", &StatusRequest {}).await?;
        if status.version != "v2" && status.version != "v2beta1" {
            return Err(KeyServiceError::Call(format!("it speaks version {:?}, not v2", status.version)));
        }
        if status.healthz != "ok" {
            return Err(KeyServiceError::Call(format!("it is not well: {}", status.healthz)));
        }
        let known = self.state.lock().envelope.as_ref().is_some_and(|envelope| envelope.key_id == status.key_id);
        if !known {
            let envelope = self.wrap_new_seed(&status.key_id).await?;
            self.state.lock().envelope = Some(Arc::new(envelope));
        }
        let mut state = self.state.lock();
        state.good_at = Some(Instant::now());
        state.fault = None;
        Ok(())
    }

    async fn wrap_new_seed(&self, key_id: &str) -> Result<Envelope, KeyServiceError> {
        let seed = Envelope::seed();
        let answer: EncryptResponse = self.call("Encrypt", &EncryptRequest { plaintext: seed.to_vec(), uid: uid() }).await?;
        if answer.key_id != key_id {
            return Err(KeyServiceError::Answer("its status and its encryption name different keys"));
        }
        if answer.ciphertext == seed {
            return Err(KeyServiceError::Answer("the ciphertext is the plain text"));
        }
        Envelope::new(seed, Wrapped { key_id: answer.key_id, source: answer.ciphertext, annotations: answer.annotations })
    }

    async fn decrypt(&self, wrapped: Wrapped) -> Result<Vec<u8>, KeyServiceError> {
        let Wrapped { key_id, source, annotations } = wrapped;
        let request = DecryptRequest { ciphertext: source, uid: uid(), key_id, annotations };
        self.call::<DecryptResponse>("Decrypt", &request).await.map(|answer| answer.plaintext)
    }

    async fn call<T: Message + Default>(&self, method: &str, message: &impl Message) -> Result<T, KeyServiceError> {
        match tokio::time::timeout(self.settings.timeout, self.try_call(method, message)).await {
            Ok(result) => result.map_err(|reason| KeyServiceError::Call(format!("{method}: {reason}"))),
            Err(_) => Err(KeyServiceError::Call(format!("{method}: no answer within {:?}", self.settings.timeout))),
        }
    }

    /// One connection for each call: there is one a minute.
    async fn try_call<T: Message + Default>(&self, method: &str, message: &impl Message) -> Result<T, String> {
        let stream = UnixStream::connect(&self.settings.socket).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| format!("open HTTP/2: {error}"))?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://localhost/v2.KeyManagementService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(framed(message)))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        if head.status != 200 {
            return Err(format!("HTTP status {}", head.status));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        // An answer that is only a failure has its status in the header.
        grpc_status(body.trailers().filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(&head.headers))?;
        let bytes = body.to_bytes();
        // Not compressed, as none was offered, and one message.
        match bytes.split_first_chunk::<5>() {
            Some(([0, length @ ..], message)) if u32::from_be_bytes(*length) as usize == message.len() => {
                T::decode(message).map_err(|error| error.to_string())
            }
            _ => Err("the answer is no message".to_owned()),
        }
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).expect("a BytesMut grows");
    bytes.freeze()
}

fn grpc_status(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        "" => Err("the answer has no gRPC status".to_owned()),
        code => Err(format!("gRPC status {code}: {}", text("grpc-message"))),
    }
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}
