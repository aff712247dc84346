//! Secrets where they should not be: logs, errors, events.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    kit::{Cluster, text},
    transport::connect,
};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// CVE-2019-11250 and CVE-2020-8565: tokens in logs, at the highest verbosity. Nor may passwords, keys or the contents of Secrets be there.
#[tokio::test]
async fn the_most_talkative_log_holds_no_token_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first in this process");
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let asked = admin.post("/api/v1/namespaces/default/serviceaccounts/default/token", &json!({"spec": {}})).await.expect(201);
    let token = text(&asked["status"]["token"]).to_owned();
    let basic = "bXktdXNlcjpteS1wYXNzd29yZA";
    let secret = "VEhFLVNFQ1JFVC1WQUxVRQ";
    let mut answers = String::new();
    for (request, body) in [
        (format!("GET /api/v1/namespaces/default/pods HTTP/1.1\r\nauthorization: Bearer {token}"), String::new()),
        (format!("GET /api/v1/pods HTTP/1.1\r\nauthorization: Bearer {token}x"), String::new()),
        (format!("GET /api/v1/pods HTTP/1.1\r\nauthorization: Basic {basic}=="), String::new()),
        (
            format!(
                "GET /api/v1/pods HTTP/1.1\r\nsec-websocket-protocol: base64url.bearer.authorization.k8s.io.{basic}, v4.channel.k8s.io"
            ),
            String::new(),
        ),
        (format!("GET /api/v1/pods HTTP/1.1\r\ncookie: session={basic}"), String::new()),
        (format!("GET /api/v1/pods?access_token={basic} HTTP/1.1\r\nx: y"), String::new()),
    ] {
        let mut stream = connect(&cluster, None, b"http/1.1").await;
        let head = format!("{request}\r\nhost: localhost\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        answers += &String::from_utf8_lossy(&answer);
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.post(secrets, &json!({"metadata": {"name": "s"}, "data": {"k": format!("{secret}==")}})).await.expect(201);
    for broken in [
        format!("{{\"metadata\": {{\"name\": \"t\"}}, \"data\": {{\"k\": \"{secret}\""),
        format!("{{\"metadata\": {{\"name\": \"t\"}}, \"data\": \"{secret}\"}}"),
        format!("{{\"metadata\": {{\"name\": \"t\"}}, \"data\": {{\"k\": [\"{secret}\"]}}}}"),
        format!("{{\"metadata\": {{\"name\": \"t\"}}, \"data\": {{\"k\": \"{secret}*\"}}}}"),
    ] {
        let answer = admin.ask("POST", secrets, &[("content-type", "application/json")], broken).await;
        assert!(answer.code.is_client_error());
        answers += &String::from_utf8_lossy(&answer.bytes);
    }
    let review = json!({"spec": {"token": format!("{token}x")}});
    admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("/api/v1/namespaces/default/pods"), "the log is at work: {logged}");
    let signature = token.rsplit_once('.').unwrap().1;
    for hidden in [signature, basic, secret] {
        for (place, text) in [("the log", &logged), ("the answers", &answers)] {
            let found = text.lines().find(|line| line.contains(hidden));
            assert_eq!(found, None, "{hidden} is in {place}");
        }
    }
}
