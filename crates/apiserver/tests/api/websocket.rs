//! Watches over WebSockets, as browsers open them: with a token in a subprotocol.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt as _;
use http::{HeaderMap, Request};
use k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent;
use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error, Message, handshake::client::generate_key},
};

use crate::{
    kit::{CONFIG_MAPS, Cluster, eventually, text},
    transport::{Tls, connect, get},
};

/// A token of an account that may do everything.
async fn token(cluster: &Cluster) -> String {
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let binding = json!({
        "metadata": {"name": "robot"}, "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"},
    });
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    let request = admin.post("/api/v1/namespaces/default/serviceaccounts/robot/token", &json!({})).await.expect(201);
    let token = text(&request["status"]["token"]).to_owned();
    let bearer = format!("Bearer {token}");
    eventually(async || get(connect(cluster, None, b"http/1.1").await, CONFIG_MAPS, &[("authorization", &bearer)]).await.status() == 200)
        .await;
    token
}

/// A WebSocket with these subprotocols, and the headers of the answer; or the code of its refusal.
async fn open(cluster: &Cluster, path: &str, protocols: &str, accept: &str) -> Result<(WebSocketStream<Tls>, HeaderMap), u16> {
    let request = Request::get(format!("wss://localhost{path}"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header("sec-websocket-protocol", protocols)
        .header("origin", "https://dashboard.example.com")
        .header("accept", accept)
        .body(())
        .unwrap();
    match tokio_tungstenite::client_async(request, connect(cluster, None, b"http/1.1").await).await {
        Ok((socket, answer)) => Ok((socket, answer.into_parts().0.headers)),
        Err(Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn next(socket: &mut WebSocketStream<Tls>) -> Message {
    tokio::time::timeout(std::time::Duration::from_secs(60), socket.next())
        .await
        .expect("a message in time")
        .expect("one more")
        .expect("whole")
}

fn bearer(token: &str) -> String {
    format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn a_browser_watches_over_a_websocket_with_a_token_in_a_subprotocol() {
    let cluster = Cluster::start().await;
    let token = token(&cluster).await;
    let path = format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Da");
    let protocols = format!("{}, dashboard.v1", bearer(&token));
    let (mut socket, headers) = open(&cluster, &path, &protocols, "application/json").await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "dashboard.v1");
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    admin.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    for expected in ["ADDED", "DELETED"] {
        let Message::Text(event) = next(&mut socket).await else { panic!("text") };
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!((text(&event["type"]), text(&event["object"]["metadata"]["name"])), (expected, "a"));
    }
    // In protobuf the messages are binary.
    let (mut socket, _) = open(&cluster, &path, &protocols, "application/vnd.kubernetes.protobuf;stream=watch").await.unwrap();
    admin.config_map("a", json!({})).await;
    let Message::Binary(event) = next(&mut socket).await else { panic!("binary") };
    assert_eq!(WatchEvent::decode(event).unwrap().r#type(), "ADDED");
    // The end of the watch is that of the connection.
    let (mut socket, _) = open(&cluster, &format!("{path}&timeoutSeconds=1"), &protocols, "application/json").await.unwrap();
    while !matches!(next(&mut socket).await, Message::Close(_)) {}
}

#[tokio::test]
async fn a_token_in_a_subprotocol_must_be_one_and_good_and_not_alone() {
    let cluster = Cluster::start().await;
    let token = token(&cluster).await;
    let path = format!("{CONFIG_MAPS}?watch=1");
    let good = bearer(&token);
    for wrong in [
        good.clone(),
        format!("{good}, {good}, x"),
        format!("{}, x", bearer("nonsense")),
        format!("{good}=, x"),
        "base64url.bearer.authorization.k8s.io., x".to_owned(),
        "x".to_owned(),
    ] {
        assert_eq!(open(&cluster, &path, &wrong, "*/*").await.err(), Some(401), "{wrong}");
    }
    // Without a WebSocket it is no credential.
    let headers = [("sec-websocket-protocol", &*format!("{good}, x"))];
    assert_eq!(get(connect(&cluster, None, b"http/1.1").await, &path, &headers).await.status(), 401);
}
