//! Liveness, readiness and startup probes.
//!
//! A probe is a task with one deadline: `initialDelaySeconds` after the container started, then each `periodSeconds`. What the
//! answers mean is counted by [`Count`], which is pure. A container that has never been ready (or started) is asked sooner as well,
//! at growing pauses below the period: these extra answers count only when they are good, so the thresholds mean what they say,
//! and a pod need not wait a whole period for having been asked a moment too early.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::Instant;

use crate::hook::{self, Failed, Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Liveness,
    Readiness,
    Startup,
}

impl Kind {
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Startup => container.startup_probe.as_ref(),
        }
    }

    /// As it begins the Unhealthy event.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
            Kind::Startup => "Startup",
        }
    }
}

/// The first pause of the extra questions; each is twice the one before.
const SOONER_FIRST: Duration = Duration::from_millis(20);

/// Numbers of a probe, with the API's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Terms {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Terms {
    fn of(probe: &Probe) -> Terms {
        let seconds = |value: Option<i32>, default: u64| {
            let value = value.and_then(|it| u64::try_from(it).ok()).filter(|it| *it > 0);
            Duration::from_secs(value.unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| value.and_then(|it| u32::try_from(it).ok()).filter(|it| *it > 0).unwrap_or(default);
        Terms {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// Answers in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    good: u32,
    bad: u32,
}

impl Count {
    /// Counts one answer; a verdict once a threshold is reached.
    fn add(&mut self, good: bool, terms: &Terms) -> Option<bool> {
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            (self.good >= terms.successes).then_some(true)
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            (self.bad >= terms.failures).then_some(false)
        }
    }
}

/// What a probe tells its worker.
#[derive(Debug)]
pub(crate) enum Told {
    Verdict(bool),
    /// One good answer, and the time that it took.
    Healthy(Duration),
    /// One bad answer, for the event.
    Unhealthy(String),
    /// One more, so soon after that it is no event of its own.
    StillUnhealthy,
}

/// Asks until the task is dropped. `known`: the verdict from before (a worker that adopts a container keeps it).
pub(crate) async fn run(
    probe: Probe,
    kind: Kind,
    started: Timestamp,
    known: Option<bool>,
    asked: Arc<dyn Fn() -> futures::future::BoxFuture<'static, Result<(), Failed>> + Send + Sync>,
    tell: impl Fn(Told) + Send,
) {
    let terms = Terms::of(&probe);
    let age = Timestamp::now().duration_since(started);
    let age = Duration::try_from(age).unwrap_or_default();
    let mut next = Instant::now() + terms.delay.saturating_sub(age);
    let mut count = Count::default();
    let mut verdict = known;
    let mut sooner = SOONER_FIRST;
    loop {
        tokio::time::sleep_until(next).await;
        let asked_at = Instant::now();
        let regular_at = asked_at + terms.period;
        match ask(&asked, terms.timeout).await {
            Ok(()) => {
                tell(Told::Healthy(asked_at.elapsed()));
                if let Some(now) = count.add(true, &terms)
                    && verdict != Some(now)
                {
                    verdict = Some(now);
                    tell(Told::Verdict(now));
                }
            }
            Err(Failed(text)) => {
                tell(Told::Unhealthy(text));
                if let Some(now) = count.add(false, &terms) {
                    // A failed liveness probe is told each time: the container may have been started anew in between.
                    if verdict != Some(now) || kind != Kind::Readiness {
                        verdict = Some(now);
                        tell(Told::Verdict(now));
                    }
                }
                let eager = kind != Kind::Liveness && verdict != Some(true) && terms.successes == 1;
                while eager && Instant::now() + sooner < regular_at {
                    tokio::time::sleep(sooner).await;
                    sooner *= 2;
                    let asked_at = Instant::now();
                    if ask(&asked, terms.timeout).await.is_err() {
                        tell(Told::StillUnhealthy);
                        continue;
                    }
                    tell(Told::Healthy(asked_at.elapsed()));
                    count.add(true, &terms);
                    verdict = Some(true);
                    tell(Told::Verdict(true));
                    break;
                }
            }
        }
        if kind == Kind::Startup && verdict == Some(true) {
            return;
        }
        next = regular_at.max(Instant::now());
    }
}

async fn ask(
    asked: &Arc<dyn Fn() -> futures::future::BoxFuture<'static, Result<(), Failed>> + Send + Sync>,
    timeout: Duration,
) -> Result<(), Failed> {
    match tokio::time::timeout(timeout, asked()).await {
        Ok(answer) => answer,
        Err(_) => Err(Failed(format!("command timed out: no answer within {timeout:?}"))),
    }
}

/// Asks once.
pub(crate) async fn once(probe: &Probe, target: &Target<'_>) -> Result<(), Failed> {
    let timeout = Terms::of(probe).timeout;
    if let Some(it) = &probe.exec {
        hook::exec(it, Some(timeout), target).await
    } else if let Some(it) = &probe.http_get {
        hook::http_get(it, target).await
    } else if let Some(it) = &probe.tcp_socket {
        hook::tcp(it.host.as_deref(), &it.port, target).await
    } else if let Some(it) = &probe.grpc {
        hook::grpc(it, target).await
    } else {
        Err(Failed("the probe names nothing to do".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn probe(json: serde_json::Value) -> Probe {
        serde_json::from_value(json).unwrap()
    }

    /// Runs a probe for `seconds` of paused time; the answer is good from `good_from_ms` on until `bad_from_ms`. Returns what was
    /// told and when.
    async fn told(kind: Kind, probe: Probe, seconds: u64, good: impl Fn(u128) -> bool + Send + Sync + 'static) -> Vec<String> {
        let began = Instant::now();
        let out: Arc<Mutex<Vec<String>>> = Arc::default();
        let asked: Arc<dyn Fn() -> futures::future::BoxFuture<'static, Result<(), Failed>> + Send + Sync> = Arc::new(move || {
            let answer = if good(began.elapsed().as_millis()) { Ok(()) } else { Err(Failed("no".into())) };
            Box::pin(std::future::ready(answer))
        });
        let tell = {
            let out = out.clone();
            move |told: Told| {
                let text = match told {
                    Told::Verdict(it) => format!("{it} at {}", began.elapsed().as_millis()),
                    Told::Healthy(_) | Told::Unhealthy(_) | Told::StillUnhealthy => return,
                };
                out.lock().unwrap().push(text);
            }
        };
        let running = run(probe, kind, Timestamp::now(), None, asked, tell);
        let _ = tokio::time::timeout(Duration::from_secs(seconds), running).await;
        let out = out.lock().unwrap();
        out.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_needs_a_moment_is_ready_before_the_period_is_over() {
        let told = told(Kind::Readiness, probe(serde_json::json!({"periodSeconds": 10})), 60, |ms| ms >= 100).await;
        assert_eq!(told, ["true at 140"]);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_lost_after_the_threshold_and_won_back() {
        let terms = serde_json::json!({"periodSeconds": 5, "failureThreshold": 2});
        let told = told(Kind::Readiness, probe(terms), 40, |ms| !(10_000..21_000).contains(&ms)).await;
        assert_eq!(told[..2], ["true at 0", "false at 15000"]);
        assert!(told[2].starts_with("true at 2"), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_fails_only_after_the_threshold() {
        let terms = serde_json::json!({"initialDelaySeconds": 3, "periodSeconds": 1, "failureThreshold": 3});
        let told = told(Kind::Liveness, probe(terms), 7, |_| false).await;
        assert_eq!(told, ["false at 5000", "false at 6000", "false at 7000"]);
    }

    #[tokio::test(start_paused = true)]
    async fn startup_gives_slow_starters_their_time() {
        let terms = serde_json::json!({"periodSeconds": 10, "failureThreshold": 30});
        let told = told(Kind::Startup, probe(terms), 290, |ms| ms >= 120_000).await;
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("true at 12"), "{told:?}");
    }

    #[test]
    fn several_successes_may_be_wanted() {
        let terms = Terms::of(&probe(serde_json::json!({"successThreshold": 2})));
        let mut count = Count::default();
        assert_eq!(count.add(true, &terms), None);
        assert_eq!(count.add(true, &terms), Some(true));
        assert_eq!(count.add(false, &terms), None);
        assert_eq!(count.add(true, &terms), None);
    }
}
