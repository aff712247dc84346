//! `authorizer` in expressions: asks what the requester, or a service account, may do (apiserver, pkg/cel/library/authz.go).
//!
//! A chain of calls collects attributes, `check` asks, and the decision answers `allowed`, `reason`, `errored`, `error`.

use std::sync::Arc;

use knarr_api::cel::{Host, Value};

use crate::{
    User,
    authz::{Answer, Attributes, Questions, Selectors},
};

#[derive(Clone)]
pub(super) struct Question {
    questions: Arc<Questions>,
    user: Arc<User>,
    /// Of the request itself, for `authorizer.requestResource`.
    own: Resource,
    about: About,
}

#[derive(Clone, Default)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) selectors: Selectors,
}

#[derive(Clone)]
enum About {
    Nothing,
    Path(String),
    Resource(Resource),
    Decided { allowed: bool, reason: String },
}

impl Question {
    pub(super) fn new(questions: Arc<Questions>, user: Arc<User>, own: Resource) -> Question {
        Question { questions, user, own, about: About::Nothing }
    }

    fn with<'a>(&self, about: About) -> Value<'a> {
        Value::Host(Arc::new(Question { about, ..self.clone() }))
    }

    fn decide<'a>(&self, verb: &str) -> Option<Result<Value<'a>, String>> {
        let attributes = match &self.about {
            About::Path(path) => Attributes { path, resource_request: false, ..Attributes::resource(&self.user, verb, "", "") },
            About::Resource(about) => Attributes {
                subresource: &about.subresource,
                namespace: &about.namespace,
                name: &about.name,
                selectors: &about.selectors,
                ..Attributes::resource(&self.user, verb, &about.group, &about.resource)
            },
            About::Nothing | About::Decided { .. } => return None,
        };
        Some(match self.questions.answer(&attributes) {
            Answer::Decided(decision) => Ok(self.with(About::Decided { allowed: decision.allowed(), reason: decision.reason })),
            Answer::Open => Err("the authorizer has not answered yet".to_owned()),
            Answer::TooMuch(why) => Err(why),
        })
    }
}

impl Host for Question {
    fn call<'a>(&self, name: &str, args: &[Value<'a>]) -> Option<Result<Value<'a>, String>> {
        let texts: Vec<String> = args.iter().map(Value::to_text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Some(Ok(match (&self.about, name, texts.as_slice()) {
            (About::Nothing, "path", [path]) => self.with(About::Path((*path).to_owned())),
            (About::Nothing, "group", [group]) => {
                self.with(About::Resource(Resource { group: (*group).to_owned(), ..Resource::default() }))
            }
            (About::Nothing, "requestResource", []) => self.with(About::Resource(self.own.clone())),
            (About::Nothing, "serviceAccount", [namespace, name]) => {
                let user = Arc::new(User::service_account(namespace, name, ""));
                Value::Host(Arc::new(Question { user, ..self.clone() }))
            }
            (About::Resource(about), part @ ("resource" | "subresource" | "namespace" | "name"), [text]) => {
                let mut about = about.clone();
                let field = match part {
                    "resource" => &mut about.resource,
                    "subresource" => &mut about.subresource,
                    "namespace" => &mut about.namespace,
                    _ => &mut about.name,
                };
                *field = (*text).to_owned();
                self.with(About::Resource(about))
            }
            (About::Resource(about), part @ ("fieldSelector" | "labelSelector"), [text]) => {
                let selectors = about.selectors.clone();
                let selectors = if part == "fieldSelector" { selectors.with_fields(text) } else { selectors.with_labels(text) };
                self.with(About::Resource(Resource { selectors, ..about.clone() }))
            }
            (About::Path(_) | About::Resource(_), "check", [verb]) => return self.decide(verb),
            (About::Decided { allowed, .. }, "allowed", []) => Value::Bool(*allowed),
            (About::Decided { reason, .. }, "reason", []) => Value::String(reason.clone().into()),
            (About::Decided { .. }, "errored", []) => Value::Bool(false),
            (About::Decided { .. }, "error", []) => Value::String("".into()),
            _ => return None,
        }))
    }
}
