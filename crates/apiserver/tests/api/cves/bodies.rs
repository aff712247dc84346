//! Bodies that cost more to read than to write.

use serde_json::{Value, json};

use super::{cheap, cpu_time, resident};
use crate::kit::{CONFIG_MAPS, Client, Cluster, PODS};

/// The largest body: upstream's limit, and ours.
const BODY_BYTES_MAX: usize = 3 << 20;
/// What reading one body may leave behind: the allocator keeps some of it for the next.
const GROWTH_BYTES_MAX: i64 = 200 << 20;

/// Sends a body that must be refused as a fault of the client, soon, and without filling the memory.
async fn refuse(admin: &Client, what: &str, media: &str, body: impl Into<Vec<u8>>) {
    let (begun, before) = (cpu_time(), resident());
    let answer = admin.ask("POST", CONFIG_MAPS, &[("content-type", media)], body.into()).await;
    assert!(
        matches!(answer.code.as_u16(), 400 | 413 | 422),
        "{what}: {} {}",
        answer.code,
        String::from_utf8_lossy(&answer.bytes[..200.min(answer.bytes.len())])
    );
    assert!(answer.bytes.len() < 64 << 10, "{what}: an answer of {} bytes", answer.bytes.len());
    cheap(begun, what);
    let grown = resident() - before;
    assert!(grown < GROWTH_BYTES_MAX, "{what} left {grown} bytes");
}

/// Nine levels, each nine times the one before.
fn laughs() -> String {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    text + "data: *a8\n"
}

/// A third of what a body may hold: what takes time by the square takes hours with that, too, and the rest of us have a test less to wait for.
fn full_of(unit: &str) -> String {
    unit.repeat(BODY_BYTES_MAX / 3 / unit.len())
}

/// CVE-2019-11253: aliases of aliases. CVE-2019-11254: text that takes the parser very long.
#[tokio::test]
async fn yaml_bombs_are_refused_soon() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    const YAML: &str = "application/yaml";
    refuse(&admin, "aliases of aliases", YAML, laughs()).await;
    refuse(&admin, "an alias of what contains it", YAML, "a: &a [*a]\n").await;
    refuse(&admin, "one large node, many aliases", YAML, format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(10_000), "*a, ".repeat(10_000)))
        .await;
    for unit in [
        "[",
        "{",
        "- ",
        "? ",
        "{a: ",
        "[a, ",
        "&a ",
        "!t ",
        "\"",
        "'",
        "%",
        "\t",
        "- - ",
        "a: &b c\n",
        "'a' ",
        "|\n ",
        "---\n- ",
        ": ",
        "\u{feff}",
        "*a, ",
    ] {
        refuse(&admin, &format!("{unit:?} over and over"), YAML, full_of(unit)).await;
        refuse(&admin, &format!("{unit:?} over and over in a flow"), YAML, format!("a: [{}", full_of(unit))).await;
    }
    let deep: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refuse(&admin, "deeper and deeper", YAML, deep).await;
}

#[tokio::test]
async fn json_bombs_are_refused_soon() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for media in ["application/json", "application/vnd.kubernetes.protobuf"] {
        for unit in ["[", "{\"a\":", "[[],", "\"", "\\", "1", "k8s\0", "\u{0}"] {
            refuse(&admin, &format!("{unit:?} over and over as {media}"), media, full_of(unit)).await;
        }
    }
    let deep = format!("{{\"metadata\":{{\"name\":\"x\"}},\"data\":{}{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    refuse(&admin, "deep data", "application/json", deep).await;
    let nested = [b"k8s\0".as_slice(), &[0x12, 0x80, 0x80, 0x40].repeat(700_000)].concat();
    refuse(&admin, "messages in messages", "application/vnd.kubernetes.protobuf", nested).await;
    let (begun, before) = (cpu_time(), resident());
    let twice = format!("{{\"metadata\":{{\"name\":\"x\"}},{}\"data\":{{}}}}", "\"data\":{},".repeat(250_000));
    let answer = admin.ask("POST", CONFIG_MAPS, &[("content-type", "application/json")], twice).await;
    answer.expect(201);
    assert!(answer.header("warning").len() < 5 << 10, "{}", answer.header("warning").len());
    cheap(begun, "a field a quarter of a million times");
    assert!(resident() - before < GROWTH_BYTES_MAX);
}

#[tokio::test]
async fn a_body_of_more_than_three_mebibytes_is_too_large() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for media in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
        let answer = admin.ask("POST", CONFIG_MAPS, &[("content-type", media)], vec![b'x'; BODY_BYTES_MAX + 1]).await;
        assert_eq!(answer.refused(413).0, "RequestEntityTooLarge", "{media}");
    }
    for media in ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"] {
        let path = format!("{CONFIG_MAPS}/a?fieldManager=x");
        let answer = admin.ask("PATCH", &path, &[("content-type", media)], vec![b'x'; BODY_BYTES_MAX + 1]).await;
        assert_eq!(answer.refused(413).0, "RequestEntityTooLarge", "{media}");
    }
}

/// CVE-2019-1002100: a short patch of many operations, or of copies of copies, took the server's memory.
#[tokio::test]
async fn a_patch_cannot_grow_without_bounds() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let path = format!("{CONFIG_MAPS}/a");
    let before = resident();
    let many: Vec<Value> = (0..10_001).map(|n| json!({"op": "add", "path": "/data/k", "value": n.to_string()})).collect();
    assert_eq!(admin.patch(&path, "json-patch", Value::from(many)).await.refused(413).0, "RequestEntityTooLarge");
    let enough: Vec<Value> = (0..10_000).map(|n| json!({"op": "add", "path": "/data/k", "value": n.to_string()})).collect();
    admin.patch(&path, "json-patch", Value::from(enough)).await.expect(200);
    // Each doubles the annotations: 2^64 of them at the end.
    let mut doubling = vec![json!({"op": "add", "path": "/data/x", "value": "x".repeat(1000)})];
    doubling.extend((0..64).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/n{n}")})));
    let begun = cpu_time();
    let (_, message) = admin.patch(&path, "json-patch", Value::from(doubling)).await.refused(422);
    assert!(message.contains("copy operations add more than"), "{message}");
    cheap(begun, "copies of copies");
    let moves: Vec<Value> = (0..10_000).map(|n| json!({"op": "test", "path": format!("/data/{}", "a/".repeat(50)), "value": n})).collect();
    admin.patch(&path, "json-patch", Value::from(moves)).await.refused(422);
    assert!(resident() - before < GROWTH_BYTES_MAX);
    assert_eq!(admin.get(&path).await.expect(200)["data"]["k"], "9999");
}

/// Moves put one deep value at the bottom of another, over and over; what walks such a value, and be it to drop it, runs out of stack.
#[tokio::test]
async fn a_patch_cannot_nest_without_bounds() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let path = format!("{CONFIG_MAPS}/a");
    let deep = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"n": inner}));
    let bottom = "/n".repeat(100);
    let mut moves = vec![json!({"op": "add", "path": "/a", "value": {}})];
    for _ in 0..2_000 {
        moves.push(json!({"op": "add", "path": "/b", "value": deep(100)}));
        moves.push(json!({"op": "move", "from": "/a", "path": format!("/b{bottom}/a")}));
        moves.push(json!({"op": "move", "from": "/b", "path": "/a"}));
    }
    let (_, message) = admin.patch(&format!("{path}?dryRun=All"), "json-patch", Value::from(moves)).await.refused(422);
    assert!(message.contains("nests deeper than 110 levels"), "{message}");
    // To look through all that is moved has an end, too.
    let wide = json!({"op": "add", "path": "/a", "value": vec![0; 100_000]});
    let there_and_back = [json!({"op": "move", "from": "/a", "path": "/b"}), json!({"op": "move", "from": "/b", "path": "/a"})];
    let begun = cpu_time();
    let moves: Vec<Value> = std::iter::once(wide).chain(there_and_back.into_iter().cycle().take(9_000)).collect();
    let (_, message) = admin.patch(&path, "json-patch", Value::from(moves)).await.refused(422);
    assert!(message.contains("place more than"), "{message}");
    cheap(begun, "the same values moved");
}

/// What clients say of managed fields is stored, and must be readable by all who read the object.
#[tokio::test]
async fn managed_fields_are_not_deeper_than_objects_can_be() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let object = |levels: usize| {
        let fields = (1..levels).fold(json!({}), |inner, _| json!({"f:n": inner}));
        let managed = json!({"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("n{levels}"), "managedFields": [managed]}})
    };
    for (levels, code) in [(111, 201), (112, 400), (120, 400)] {
        admin.post(CONFIG_MAPS, &object(levels)).await.expect(code);
        let yaml = serde_json::to_string(&object(levels)).unwrap();
        let made = admin
            .ask("POST", &format!("{CONFIG_MAPS}?dryRun=All"), &[("content-type", "application/yaml")], format!("# YAML\n{yaml}"))
            .await;
        assert_eq!(made.code.as_u16(), if code == 201 { 409 } else { code }, "{levels}");
    }
    // As the kubelet's and the controllers' libraries read it, in a list.
    let list: k8s_openapi::List<k8s_openapi::api::core::v1::ConfigMap> =
        serde_json::from_slice(&admin.get(CONFIG_MAPS).await.bytes).unwrap();
    assert!(list.items.iter().any(|item| item.metadata.name.as_deref() == Some("n111")));
    admin.delete(&format!("{CONFIG_MAPS}/n111")).await.expect(200);
}

/// The same class: lists that fill a body, where a merge or a check that looks at each pair would take hours.
#[tokio::test]
async fn long_lists_take_time_in_proportion() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let variables: Vec<Value> = (0..30_000).map(|n| json!({"name": format!("V{n}"), "value": "x"})).collect();
    let pod = |variables: &[Value]| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i", "env": variables}]}})
    };
    let begun = cpu_time();
    let path = format!("{PODS}/p?fieldManager=x&dryRun=All&force=true");
    let answer = admin.patch(&path, "apply", pod(&variables)).await;
    assert!(answer.code.is_success() || answer.code.is_client_error(), "{}", answer.code);
    cheap(begun, "applying 30,000 variables");
    let begun = cpu_time();
    let mut body = pod(&variables);
    body["metadata"]["name"] = "q".into();
    let answer = admin.post(&format!("{PODS}?dryRun=All"), &body).await;
    assert!(answer.code.is_success() || answer.code.is_client_error(), "{}", answer.code);
    cheap(begun, "creating 30,000 variables");
    let begun = cpu_time();
    let twice: Vec<Value> = (0..30_000).map(|_| json!({"name": "V", "value": "x"})).collect();
    let answer = admin.patch(&path, "apply", pod(&twice)).await;
    assert!(answer.code.is_success() || answer.code.is_client_error(), "{}", answer.code);
    cheap(begun, "applying one variable 30,000 times");
    let selector = format!("/api/v1/pods?labelSelector={}", "a,".repeat(20_000));
    let begun = cpu_time();
    let answer = admin.get(&selector).await;
    assert!(answer.code.is_success() || answer.code.is_client_error(), "{}", answer.code);
    cheap(begun, "a long selector");
}
