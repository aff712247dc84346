//! Questions that are answered and never stored: may this user do that, who is behind this token, who am I; and tokens for service accounts.
//!
//! A review is created like any object and comes back with its `status` filled in.

mod access;
#[cfg(test)]
mod tests;
mod tokens;

pub(crate) use tokens::{SECONDS_EXTENDED as TOKEN_SECONDS_EXTENDED, SECONDS_GRANTED_MAX as TOKEN_SECONDS_MAX};

use std::sync::Arc;

use knarr_api::status::{self, Status};
use knarr_api::{Kind, Object};
use knarr_store::Store;
use serde_json::{Value, json};

use crate::User;
use crate::authn::Authn;
use crate::authz::Authorizer;

pub struct Reviews {
    authn: Arc<Authn>,
    authorizer: Arc<Authorizer>,
    store: Arc<dyn Store>,
}

impl Reviews {
    pub fn new(authn: Arc<Authn>, authorizer: Arc<Authorizer>, store: Arc<dyn Store>) -> Reviews {
        Reviews { authn, authorizer, store }
    }

    /// Answers a review that `user` created. `namespace` is the path's, for the kinds that have one.
    pub async fn create(&self, user: &User, kind: &Kind, namespace: &str, mut review: Object) -> Result<Object, Status> {
        match (&*kind.group, &*kind.resource) {
            ("authorization.k8s.io", "subjectaccessreviews") => self.subject_access(kind, "", &mut review).await?,
            ("authorization.k8s.io", "localsubjectaccessreviews") => self.subject_access(kind, namespace, &mut review).await?,
            ("authorization.k8s.io", "selfsubjectaccessreviews") => self.self_access(user, kind, &mut review).await?,
            ("authorization.k8s.io", "selfsubjectrulesreviews") => self.self_rules(user, &mut review)?,
            ("authentication.k8s.io", "selfsubjectreviews") => review.set(&["status"], json!({ "userInfo": user_info(user) })),
            ("authentication.k8s.io", "tokenreviews") => self.token_review(&mut review).await?,
            _ => return Err(status::method_not_allowed(&kind.group, &kind.resource, "create")),
        }
        Ok(review)
    }
}

/// A user as reviews show it: empty parts are left out.
fn user_info(user: &User) -> Value {
    let mut info = serde_json::Map::new();
    info.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        info.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        info.insert("groups".to_owned(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        info.insert("extra".to_owned(), json!(user.extra));
    }
    info.into()
}
