//! `knarr secrets report`: who read and who wrote which Secrets, by the audit log. Needs no Knarr that runs.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use jiff::Timestamp;
use knarr_apiserver::LogSettings;
use serde::Deserialize;

use crate::{cli::SecretsReport, client::get::aligned, report::Failure};

/// What a line has that is about Secrets.
const SECRETS: &[u8] = b"\"secrets\"";

/// What of an event (audit.k8s.io/v1) the report tells.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    #[serde(default, rename = "auditID")]
    audit_id: String,
    verb: String,
    user: User,
    impersonated_user: Option<User>,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Option<Timestamp>,
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

/// When, and from where.
struct Seen {
    at: Timestamp,
    from: String,
}

struct Watch {
    access: Access,
    seen: Seen,
    end: Option<Timestamp>,
}

struct Times {
    count: u64,
    last: Seen,
}

#[derive(Default)]
struct Report {
    /// What was over before is not shown.
    after: Option<Timestamp>,
    accesses: HashMap<Access, Times>,
    /// By the ids of their requests.
    watches: HashMap<String, Watch>,
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
    let failed = |error: &dyn std::error::Error| Failure::Failed(format!("read the audit log {path}: {error}").into());
    let files = open(&settings).map_err(|error| failed(&error))?;
    if files.is_empty() {
        return Err(Failure::Usage(format!("there is no audit log {path}; if `knarr up` got another, name it with --audit-log-path")));
    }
    let after = asked.since.map(|since| Timestamp::now().saturating_sub(since)).transpose().map_err(|error| failed(&error))?;
    let mut report = Report { after, ..Report::default() };
    for file in files {
        report.read(BufReader::new(file), asked).map_err(|error| failed(&error))?;
    }
    print!("{}", report.text());
    Ok(())
}

/// All files of the log. They are opened before the first is read, and as they were at one time: the server may rotate them meanwhile.
fn open(settings: &LogSettings) -> io::Result<Vec<File>> {
    loop {
        let paths = settings.files()?;
        let files: io::Result<Vec<File>> = paths.iter().map(File::open).collect();
        if settings.files()? == paths {
            return files;
        }
    }
}

impl Report {
    fn read(&mut self, mut log: impl BufRead, asked: &SecretsReport) -> io::Result<()> {
        let mut line = Vec::new();
        while log.read_until(b'\n', &mut line)? > 0 {
            if self.begins.is_none() {
                self.begins = serde_json::from_slice::<Event>(&line).ok().map(|event| event.request_received_timestamp);
            }
            // Most events are about something else, and need not be taken apart.
            if line.windows(SECRETS.len()).any(|part| part == SECRETS) {
                match serde_json::from_slice(&line) {
                    Ok(event) => self.add(event, asked),
                    Err(_) => self.unreadable += 1,
                }
            }
            line.clear();
        }
        Ok(())
    }

    fn add(&mut self, event: Event, asked: &SecretsReport) {
        let Some(object) = event.object_ref.filter(|object| object.resource == "secrets" && object.api_group.is_empty()) else { return };
        let wanted = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is || is.is_empty());
        if !wanted(&asked.namespace, &object.namespace) || !wanted(&asked.name, &object.name) {
            return;
        }
        let code = event.response_status.map_or(0, |status| status.code);
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let user = or(event.user.username, "-");
        let access = Access {
            user: match event.impersonated_user {
                Some(acted) => format!("{user} as {}", acted.username),
                None => user,
            },
            verb: event.verb,
            namespace: or(object.namespace, "*"),
            name: or(object.name, "*"),
            result: match code {
                101 | 200..=399 => "done".to_owned(),
                401 | 403 => "refused".to_owned(),
                404 => "not found".to_owned(),
                code => format!("failed ({code})"),
            },
        };
        let is_over = matches!(&*event.stage, "ResponseComplete" | "Panic");
        let seen = Seen { at: event.request_received_timestamp, from: event.source_ips.into_iter().next().unwrap_or_default() };
        if access.verb == "watch" && event.stage != "RequestReceived" {
            // A watch shows Secrets from its start on, and may not be over.
            let watch = self.watches.entry(event.audit_id).or_insert(Watch { access, seen, end: None });
            if is_over {
                watch.end = event.stage_timestamp;
            }
        // Who is not known is told so, and that is all there is of the request.
        } else if is_over || (event.stage == "ResponseStarted" && code == 401) {
            let end = Some(seen.at);
            self.count(access, seen, end);
        }
    }

    fn count(&mut self, access: Access, seen: Seen, end: Option<Timestamp>) {
        if end.is_some_and(|end| self.after.is_some_and(|after| end < after)) {
            return;
        }
        match self.accesses.entry(access) {
            Entry::Vacant(place) => drop(place.insert(Times { count: 1, last: seen })),
            Entry::Occupied(mut known) => {
                let times = known.get_mut();
                times.count += 1;
                if seen.at >= times.last.at {
                    times.last = seen;
                }
            }
        }
    }

    /// The latest first.
    fn text(mut self) -> String {
        for Watch { access, seen, end } in std::mem::take(&mut self.watches).into_values() {
            self.count(access, seen, end);
        }
        let mut rows: Vec<_> = self.accesses.into_iter().collect();
        rows.sort_by(|(a, of_a), (b, of_b)| of_b.last.at.cmp(&of_a.last.at).then_with(|| a.cmp(b)));
        let mut lines = vec![["LAST", "USER", "VERB", "NAMESPACE", "NAME", "TIMES", "RESULT", "FROM"].map(str::to_owned).to_vec()];
        lines.extend(rows.into_iter().map(|(access, Times { count, last })| {
            let Access { user, verb, namespace, name, result } = access;
            let cells = [time(last.at), user, verb, namespace, name, count.to_string(), result, last.from];
            cells.iter().map(|cell| printable(cell)).collect()
        }));
        let mut text = aligned(&lines);
        if let Some(begins) = self.begins {
            text.push_str(&format!("the log begins at {}\n", time(begins)));
        }
        if self.unreadable > 0 {
            text.push_str(&format!("{} lines of it cannot be read\n", self.unreadable));
        }
        text
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Names are what someone has asked for, and may have been made up to look like a row, or to steer a terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(minute: u8, user: &str, verb: &str, name: &str, code: u16, change: &Value) -> String {
        let mut event = json!({
            "kind": "Event", "auditID": format!("{verb}-{minute}"), "stage": if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" }, "verb": verb, "user": {"username": user},
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
        let mut report = Report { after: after.map(|at| at.parse().unwrap()), ..Report::default() };
        report.read(log.join("\n").as_bytes(), asked).unwrap();
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
            event(5, "system:apiserver", "watch", "", 200, &json!({"stage": "ResponseComplete", "stageTimestamp": "2026-01-01T00:09:00Z"})),
            event(0, "old", "watch", "", 200, &json!({"auditID": "1"})),
            event(
                0,
                "old",
                "watch",
                "",
                200,
                &json!({"auditID": "1", "stage": "ResponseComplete", "stageTimestamp": "2026-01-01T00:04:00Z"}),
            ),
            event(0, "", "get", "x\n2026-01-01T00:00:00Z ann", 401, &json!({"stage": "ResponseStarted"})),
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
                "2026-01-01T00:00:00Z - get default x\\n2026-01-01T00:00:00Z ann 1 refused 10.0.0.9",
                "2026-01-01T00:00:00Z old watch default * 1 done 10.0.0.9",
                "the log begins at 2026-01-01T00:00:00Z",
                "1 lines of it cannot be read",
            ]
        );
        let late = rows(&log, &all, Some("2026-01-01T00:04:30Z"));
        assert_eq!(late.len(), 3, "what was over before is not shown: {late:#?}");
        assert_eq!(rows(&log, &all, Some("2026-01-01T00:06:30Z")).len(), 3, "a watch shows them until it ends");
        let one = SecretsReport { name: Some("other".into()), ..SecretsReport::default() };
        let shown = rows(&log, &one, None);
        assert_eq!(shown.len(), 5, "lists and watches show all Secrets: {shown:#?}");
        let elsewhere = SecretsReport { namespace: Some("kube-system".into()), ..SecretsReport::default() };
        assert_eq!(rows(&log, &elsewhere, None).len(), 3);
    }
}
