//! Query parameters, and the options that they and the bodies of deletions spell.

use std::time::Duration;

use knarr_api::{Status, status};
use serde_json::{Map, Value, json};

/// The parameters of a URL, decoded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of `name`; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Anything but nothing, `0` and `false` is true: upstream's conversion of query parameters.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| status::bad_request(format!("{name}: \"{text}\" is not a number"))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// metav1.ListOptions, for lists, watches and deletions of collections.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    /// None for no limit.
    pub(crate) limit: Option<usize>,
    pub(crate) continues: String,
    /// As given; empty for the most recent.
    pub(crate) resource_version: String,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
}

impl ListOptions {
    /// `watch` also holds for the old form of the path.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let seconds = query.number("timeoutSeconds")?;
        let limit = query.number("limit")?;
        let version_match = match query.text("resourceVersionMatch") {
            "" => None,
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            other => {
                return Err(invalid(&format!(
                    "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        };
        let options = Self {
            label_selector: query.text("labelSelector").to_owned(),
            field_selector: query.text("fieldSelector").to_owned(),
            limit: limit.filter(|limit| *limit > 0).map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            continues: query.text("continue").to_owned(),
            resource_version: query.text("resourceVersion").to_owned(),
            version_match,
            timeout: seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0).map(Duration::from_secs),
            watch: watch || query.flag("watch").unwrap_or(false),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            initial_events: query.flag("sendInitialEvents"),
        };
        options.validate()?;
        Ok(options)
    }

    /// The combinations that upstream refuses (apimachinery, apis/meta/internalversion/validation).
    fn validate(&self) -> Result<(), Status> {
        let unset = self.resource_version.is_empty();
        if self.watch {
            if !self.continues.is_empty() {
                return Err(invalid("continue: Forbidden: continue is forbidden for watch"));
            }
            return match (self.initial_events, self.version_match) {
                (Some(_), None) => {
                    Err(invalid("resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
                }
                (Some(_), Some(VersionMatch::Exact)) => {
                    Err(invalid("resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\""))
                }
                (Some(true), _) if !self.bookmarks => {
                    Err(invalid("allowWatchBookmarks: Forbidden: sendInitialEvents requires setting allowWatchBookmarks to true"))
                }
                (None, Some(_)) => Err(invalid(
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                )),
                _ => Ok(()),
            };
        }
        if self.initial_events.is_some() {
            return Err(invalid("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"));
        }
        match self.version_match {
            Some(_) if unset => {
                Err(invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"))
            }
            Some(_) if !self.continues.is_empty() => {
                Err(invalid("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"))
            }
            Some(VersionMatch::Exact) if self.resource_version == "0" => {
                Err(invalid("resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
            }
            _ => Ok(()),
        }
    }
}

fn invalid(message: &str) -> Status {
    Status::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {message}"))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Validation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// metav1.CreateOptions, UpdateOptions and PatchOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// As given; the default depends on the user agent.
    pub(crate) field_manager: String,
    pub(crate) validation: Validation,
    pub(crate) force: Option<bool>,
}

/// Upstream has the same (apimachinery, apis/meta/v1/validation, FieldManagerMaxLength).
const FIELD_MANAGER_BYTES_MAX: usize = 128;

impl WriteOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let validation = match query.text("fieldValidation") {
            "" | "Warn" => Validation::Warn,
            "Ignore" => Validation::Ignore,
            "Strict" => Validation::Strict,
            other => {
                return Err(unprocessable(format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        let field_manager = query.text("fieldManager").to_owned();
        if field_manager.len() > FIELD_MANAGER_BYTES_MAX {
            return Err(unprocessable(format!("fieldManager: Too long: may not be more than {FIELD_MANAGER_BYTES_MAX} bytes")));
        }
        if field_manager.chars().any(char::is_control) {
            return Err(unprocessable("fieldManager: Invalid value: should only contain printable characters".into()));
        }
        Ok(Self { dry_run: dry_run(query.all("dryRun"))?, field_manager, validation, force: query.flag("force") })
    }

    /// As an object of `kind`: CreateOptions or UpdateOptions.
    pub(crate) fn to_value(&self, kind: &str) -> Value {
        let validation = match self.validation {
            Validation::Ignore => "Ignore",
            Validation::Warn => "Warn",
            Validation::Strict => "Strict",
        };
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "fieldValidation": validation});
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        if !self.field_manager.is_empty() {
            value["fieldManager"] = self.field_manager.as_str().into();
        }
        value
    }
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, Status> {
    let mut dry = false;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(unprocessable(format!("dryRun: Unsupported value: \"{value}\": supported values: \"All\"")));
        }
        dry = true;
    }
    Ok(dry)
}

fn unprocessable(message: String) -> Status {
    Status::new(422, "Invalid", format!("options.meta.k8s.io \"\" is invalid: {message}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// metav1.DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    /// Preconditions.
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    pub(crate) fn from_query(query: &Query) -> Result<Self, Status> {
        Self {
            grace_seconds: query.number("gracePeriodSeconds")?,
            propagation: propagation(query.text("propagationPolicy"), query.flag("orphanDependents"))?,
            uid: None,
            resource_version: None,
            dry_run: dry_run(query.all("dryRun"))?,
        }
        .checked()
    }

    /// From a body, which then counts instead of the query.
    pub(crate) fn from_object(object: &Map<String, Value>) -> Result<Self, Status> {
        if object.get("kind").and_then(Value::as_str).is_some_and(|kind| kind != "DeleteOptions") {
            return Err(status::bad_request("the body of a DELETE must be a DeleteOptions".to_owned()));
        }
        let precondition = |name: &str| Some(object.get("preconditions")?.get(name)?.as_str()?.to_owned());
        let dry: Vec<_> = object.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let policy = object.get("propagationPolicy").and_then(Value::as_str).unwrap_or_default();
        Self {
            grace_seconds: object.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation: propagation(policy, object.get("orphanDependents").and_then(Value::as_bool))?,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: dry_run(dry.into_iter())?,
        }
        .checked()
    }

    /// As an object.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_seconds {
            value["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            value["propagationPolicy"] = format!("{propagation:?}").into();
        }
        for (key, wanted) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(wanted) = wanted {
                value["preconditions"][key] = wanted.as_str().into();
            }
        }
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }

    fn checked(self) -> Result<Self, Status> {
        // Upstream turns any negative period into the shortest one that is still graceful.
        let grace_seconds = self.grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
        Ok(Self { grace_seconds, ..self })
    }
}

fn propagation(policy: &str, orphan: Option<bool>) -> Result<Option<Propagation>, Status> {
    match (policy, orphan) {
        ("", None) => Ok(None),
        ("", Some(true)) => Ok(Some(Propagation::Orphan)),
        ("", Some(false)) => Ok(Some(Propagation::Background)),
        (_, Some(_)) => {
            Err(unprocessable("propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set".into()))
        }
        ("Orphan", None) => Ok(Some(Propagation::Orphan)),
        ("Background", None) => Ok(Some(Propagation::Background)),
        ("Foreground", None) => Ok(Some(Propagation::Foreground)),
        (other, None) => Err(unprocessable(format!(
            "propagationPolicy: Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(Some(query)), false).map_err(|status| status.message)
    }

    fn refused(query: &str, part: &str) {
        let message = list(query).expect_err(query);
        assert!(message.contains(part), "{query}: {message}");
    }

    #[test]
    fn combinations_that_upstream_refuses() {
        refused("resourceVersionMatch=Exact", "unless resourceVersion is provided");
        refused("resourceVersionMatch=Exact&resourceVersion=0", "forbidden for resourceVersion \"0\"");
        refused("resourceVersionMatch=Exact&resourceVersion=5&continue=x", "when continue is provided");
        refused("resourceVersionMatch=Newest&resourceVersion=5", "Unsupported value: \"Newest\"");
        refused("sendInitialEvents=true", "forbidden for list");
        refused("watch=1&sendInitialEvents=true", "requires setting resourceVersionMatch");
        refused("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "allowWatchBookmarks");
        refused("watch=1&resourceVersionMatch=NotOlderThan", "forbidden for watch unless");
        refused("limit=many", "not a number");
    }

    #[test]
    fn the_streaming_list_of_client_go_is_accepted() {
        let options =
            list("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=").unwrap();
        assert!(options.watch && options.bookmarks && options.initial_events == Some(true));
    }

    #[test]
    fn deletions() {
        let body = serde_json::json!({"kind": "DeleteOptions", "gracePeriodSeconds": -5, "propagationPolicy": "Foreground", "preconditions": {"uid": "u"}});
        let options = DeleteOptions::from_object(body.as_object().unwrap()).unwrap();
        assert_eq!(
            (options.grace_seconds, options.propagation, options.uid.as_deref()),
            (Some(1), Some(Propagation::Foreground), Some("u"))
        );
        assert!(DeleteOptions::from_query(&Query::parse(Some("propagationPolicy=Sideways"))).is_err());
        assert!(DeleteOptions::from_query(&Query::parse(Some("dryRun=Some"))).is_err());
    }
}
