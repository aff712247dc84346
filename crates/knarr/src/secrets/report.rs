//! `knarr secrets report`: who read and who wrote which Secrets, by the audit log. Needs no Knarr that runs.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use jiff::Timestamp;
use knarr_apiserver::LogSettings;
use serde::Deserialize;

use crate::{cli::SecretsReport, client::get::aligned, report::Failure};

/// What of an event (audit.k8s.io/v1) the report tells.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
    #[serde(default, rename = "sourceIPs")]
    source_ips: Vec<String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// One row: accesses that differ in time only.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Access {
    user: String,
    verb: String,
    namespace: String,
    name: String,
    result: String,
}

struct Times {
    count: u64,
    last: Timestamp,
    from: String,
}

#[derive(Default)]
struct Report {
    accesses: HashMap<Access, Times>,
    /// When the log begins.
    begins: Option<Timestamp>,
    unreadable: u64,
}

pub(super) fn run(asked: &SecretsReport, data_dir: &Path) -> Result<(), Failure> {
    let mut settings = LogSettings::in_data_dir(data_dir);
    if let Some(path) = &asked.audit_log_path {
        settings.path.clone_from(path);
    }
    let path = settings.path.display();
    let files = settings.files().map_err(|error| failed(&format!("look for the audit log {path}"), &error))?;
    if files.is_empty() {
        return Err(Failure::Usage(format!("there is no audit log {path}; if `knarr up` got another, name it with --audit-log-path")));
    }
    let after =
        asked.since.map(|since| Timestamp::now().saturating_sub(since)).transpose().map_err(|error| failed("reckon --since", &error))?;
    let mut report = Report::default();
    for file in &files {
        // One that is rotated away meanwhile is among the others under its new name; the oldest may go.
        match File::open(file) {
            Ok(open) => {
                report.read(BufReader::new(open), asked, after).map_err(|error| failed(&format!("read {}", file.display()), &error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&format!("open {}", file.display()), &error)),
        }
    }
    print!("{}", report.text());
    Ok(())
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Failed(format!("{what}: {error}").into())
}

impl Report {
    fn read(&mut self, lines: impl BufRead, asked: &SecretsReport, after: Option<Timestamp>) -> io::Result<()> {
        for line in lines.lines() {
            let line = line?;
            if self.begins.is_none() {
                self.begins = serde_json::from_str::<Event>(&line).ok().map(|event| event.request_received_timestamp);
            }
            // Most events are about something else, and need not be taken apart.
            if !line.contains("\"secrets\"") {
                continue;
            }
            match serde_json::from_str(&line) {
                Ok(event) => self.add(event, asked, after),
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(())
    }

    fn add(&mut self, event: Event, asked: &SecretsReport, after: Option<Timestamp>) {
        let Some(object) = event.object_ref.filter(|object| object.resource == "secrets" && object.api_group.is_empty()) else { return };
        // A watch shows Secrets from its start on, and may not be over.
        let counts = match &*event.stage {
            "ResponseStarted" => event.verb == "watch",
            "ResponseComplete" => event.verb != "watch",
            "Panic" => true,
            _ => false,
        };
        let wanted = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is || is.is_empty());
        let at = event.request_received_timestamp;
        if !counts
            || after.is_some_and(|after| at < after)
            || !wanted(&asked.namespace, &object.namespace)
            || !wanted(&asked.name, &object.name)
        {
            return;
        }
        let all = |text: String| if text.is_empty() { "*".to_owned() } else { text };
        let access = Access {
            user: match event.impersonated_user {
                Some(acted) => format!("{} as {}", event.user.username, acted.username),
                None => event.user.username,
            },
            verb: event.verb,
            namespace: all(object.namespace),
            name: all(object.name),
            result: match event.response_status.map_or(0, |status| status.code) {
                200..=399 => "done".to_owned(),
                401 | 403 => "refused".to_owned(),
                404 => "not found".to_owned(),
                code => format!("failed ({code})"),
            },
        };
        let from = event.source_ips.into_iter().next().unwrap_or_default();
        let times = self.accesses.entry(access).or_insert(Times { count: 0, last: at, from: String::new() });
        times.count += 1;
        if at >= times.last {
            (times.last, times.from) = (at, from);
        }
    }

    /// The latest first.
    fn text(&self) -> String {
        let mut rows: Vec<_> = self.accesses.iter().collect();
        rows.sort_by(|(a, of_a), (b, of_b)| of_b.last.cmp(&of_a.last).then_with(|| a.cmp(b)));
        let mut lines = vec![["LAST", "USER", "VERB", "NAMESPACE", "NAME", "TIMES", "RESULT", "FROM"].map(str::to_owned).to_vec()];
        lines.extend(rows.into_iter().map(|(access, times)| {
            let Access { user, verb, namespace, name, result } = access;
            let last = times.last.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            [&last, user, verb, namespace, name, &times.count.to_string(), result, &times.from].map(String::clone).to_vec()
        }));
        let mut text = aligned(&lines);
        if let Some(begins) = self.begins {
            text.push_str(&format!("the log begins at {}\n", begins.strftime("%Y-%m-%dT%H:%M:%SZ")));
        }
        if self.unreadable > 0 {
            text.push_str(&format!("{} lines of it cannot be read\n", self.unreadable));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(minute: u8, user: &str, verb: &str, name: &str, code: u16, change: &Value) -> String {
        let mut event = json!({
            "kind": "Event", "stage": if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" }, "verb": verb, "user": {"username": user},
            "objectRef": {"resource": "secrets", "namespace": "default", "name": name}, "responseStatus": {"code": code},
            "requestReceivedTimestamp": format!("2026-01-01T00:{minute:02}:00.123456Z"), "sourceIPs": ["10.0.0.9"],
        });
        for (field, value) in change.as_object().unwrap() {
            match value.as_object() {
                Some(parts) => parts.iter().for_each(|(part, value)| event[field][part] = value.clone()),
                None => event[field] = value.clone(),
            }
        }
        event.to_string()
    }

    fn rows(log: &[String], asked: &SecretsReport, after: Option<&str>) -> Vec<String> {
        let mut report = Report::default();
        report.read(log.join("\n").as_bytes(), asked, after.map(|at| at.parse().unwrap())).unwrap();
        let text = report.text();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().skip(1).map(words).collect()
    }

    #[test]
    fn accesses_are_counted_by_who_did_what_with_what_result() {
        let none = json!({});
        let log = [
            event(0, "ann", "get", "db", 200, &none),
            event(1, "bob", "list", "", 200, &none),
            event(2, "ann", "get", "db", 200, &json!({"sourceIPs": ["10.0.0.1", "10.0.0.2"]})),
            event(3, "eve", "get", "db", 403, &none),
            event(4, "ann", "patch", "db", 200, &json!({"impersonatedUser": {"username": "bob"}})),
            event(5, "system:apiserver", "watch", "", 200, &json!({"objectRef": {"namespace": ""}})),
            event(5, "system:apiserver", "watch", "", 200, &json!({"stage": "ResponseComplete"})),
            event(6, "ann", "get", "db", 200, &json!({"objectRef": {"resource": "configmaps", "name": "secrets"}})),
            event(6, "ann", "get", "db", 200, &json!({"stage": "RequestReceived"})),
            "{\"secrets\"".to_owned(),
        ];
        let all = SecretsReport::default();
        assert_eq!(
            rows(&log, &all, None),
            [
                "2026-01-01T00:05:00Z system:apiserver watch * * 1 done 10.0.0.9",
                "2026-01-01T00:04:00Z ann as bob patch default db 1 done 10.0.0.9",
                "2026-01-01T00:03:00Z eve get default db 1 refused 10.0.0.9",
                "2026-01-01T00:02:00Z ann get default db 2 done 10.0.0.1",
                "2026-01-01T00:01:00Z bob list default * 1 done 10.0.0.9",
                "the log begins at 2026-01-01T00:00:00Z",
                "1 lines of it cannot be read",
            ]
        );
        assert_eq!(rows(&log, &all, Some("2026-01-01T00:04:30Z")).len(), 3);
        let one = SecretsReport { name: Some("other".into()), ..SecretsReport::default() };
        let shown = rows(&log, &one, None);
        assert_eq!(shown.len(), 4, "lists and watches show all Secrets: {shown:#?}");
        let elsewhere = SecretsReport { namespace: Some("kube-system".into()), ..SecretsReport::default() };
        assert_eq!(rows(&log, &elsewhere, None).len(), 3);
    }
}
