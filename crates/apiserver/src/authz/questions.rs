//! Questions to the authorizers in the midst of what cannot wait: the evaluation of an expression.
//!
//! An evaluation that meets a question which only a webhook can answer is broken off, the webhook is asked, and the evaluation begins anew, knowing the
//! answer. So nobody holds a thread while a webhook is silent. Expressions change nothing, and answer the same each time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Attributes, Authorizer, Decision, Selectors, webhook};
use crate::User;

/// Different questions of one evaluation that are put to webhooks. The evaluation of an expression that asks more of them fails: each is a new beginning.
const QUESTIONS_MAX: usize = 32;

pub(crate) struct Questions {
    authorizer: Arc<Authorizer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Decision>,
    /// Those of `answers` that the evaluation of now asked for.
    asked: usize,
    /// The first that has no answer yet.
    open: Option<Question>,
}

struct Question {
    key: String,
    user: User,
    path: Option<String>,
    /// Verb, group, version, resource, subresource, name and namespace.
    words: [String; 7],
    selectors: Selectors,
}

/// What is known of a question.
pub(crate) enum Answer {
    Decided(Decision),
    /// The webhook is to be asked, and the evaluation is in vain.
    Open,
    /// Nobody asks so much; why.
    TooMuch(String),
}

impl Questions {
    pub(crate) fn new(authorizer: Arc<Authorizer>) -> Questions {
        Questions { authorizer, state: Mutex::default() }
    }

    pub(crate) fn answer(&self, request: &Attributes<'_>) -> Answer {
        if let Some(decision) = self.authorizer.decided(request) {
            return Answer::Decided(decision);
        }
        let key = webhook::spec(request, true, false).to_string();
        let mut state = self.state.lock();
        if let Some(decision) = state.answers.get(&key) {
            return Answer::Decided(decision.clone());
        }
        if state.asked == QUESTIONS_MAX {
            return Answer::TooMuch(format!("an expression may put {QUESTIONS_MAX} questions to webhooks that authorize, not more"));
        }
        state.open.get_or_insert_with(|| Question::new(key, request));
        Answer::Open
    }

    /// Does `work` until it asks nothing that is not known.
    pub(crate) async fn answered<T>(&self, work: impl Fn() -> T) -> T {
        self.state.lock().asked = 0;
        loop {
            let question = {
                let done = work();
                match self.state.lock().open.take() {
                    Some(question) => question,
                    None => return done,
                }
            };
            let decision = Box::pin(self.authorizer.decide(&question.attributes())).await;
            let mut state = self.state.lock();
            state.answers.insert(question.key, decision);
            state.asked += 1;
        }
    }
}

impl Question {
    fn new(key: String, request: &Attributes<'_>) -> Question {
        let Attributes { verb, group, version, resource, subresource, name, namespace, .. } = *request;
        Question {
            key,
            user: request.user.clone(),
            path: (!request.resource_request).then(|| request.path.to_owned()),
            words: [verb, group, version, resource, subresource, name, namespace].map(str::to_owned),
            selectors: request.selectors.clone(),
        }
    }

    fn attributes(&self) -> Attributes<'_> {
        let [verb, group, version, resource, subresource, name, namespace] = self.words.each_ref().map(String::as_str);
        let path = self.path.as_deref().unwrap_or_default();
        let resource_request = self.path.is_none();
        let (user, selectors) = (&self.user, &self.selectors);
        Attributes { user, verb, group, version, resource, subresource, name, namespace, path, resource_request, selectors }
    }
}
