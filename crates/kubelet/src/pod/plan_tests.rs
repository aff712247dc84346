use expect_test::{Expect, expect};

use crate::pod::fixture;

fn check(facts: &str, expected: Expect) {
    expected.assert_eq(&fixture::actions(facts));
}

#[test]
fn a_new_pod_gets_volumes_and_sandbox_at_once() {
    check("container web", expect!["volumes, sandbox 0"]);
}

#[test]
fn nothing_is_planned_twice() {
    check(
        "container web
         busy volumes
         busy sandbox",
        expect![""],
    );
}

#[test]
fn init_containers_run_one_by_one() {
    let pod = "init a
               init b
               container web
               volumes ready
               sandbox 0 ready";
    check(pod, expect!["start a#0"]);
    check(&format!("{pod}\nrun a#0"), expect![""]);
    check(&format!("{pod}\nexit a#0 code=0"), expect!["start b#0"]);
    check(&format!("{pod}\nexit a#0 code=0\nexit b#0 code=0"), expect!["start web#0"]);
}

#[test]
fn a_failed_init_container_is_tried_again_unless_the_policy_forbids() {
    let facts = "init a
                 container web
                 volumes ready
                 sandbox 0 ready
                 exit a#0 code=1";
    check(&format!("pod restart=Always\n{facts}"), expect!["start a#1"]);
    check(&format!("pod restart=Never\n{facts}"), expect!["stop-sandbox s0"]);
}

#[test]
fn a_sidecar_must_start_before_what_follows_it() {
    let pod = "sidecar proxy startup
               container web
               volumes ready
               sandbox 0 ready";
    check(&format!("{pod}\nrun proxy#0"), expect![""]);
    check(&format!("{pod}\nrun proxy#0\nstarted proxy#0"), expect!["start web#0"]);
}

#[test]
fn a_sidecar_is_restarted_even_where_the_pod_is_not() {
    check(
        "pod restart=Never
         sidecar proxy
         container web
         volumes ready
         sandbox 0 ready
         run web#0
         exit proxy#0 code=1",
        expect!["start proxy#1"],
    );
}

#[test]
fn containers_start_in_order_each_after_the_hook_of_the_one_before() {
    let pod = "container a
               container b
               volumes ready
               sandbox 0 ready";
    check(&format!("{pod}\nrun a#0 unhooked\nbusy start a"), expect![""]);
    check(&format!("{pod}\nrun a#0"), expect!["start b#0"]);
}

#[test]
fn a_crashed_container_waits_for_its_back_off() {
    let pod = "container web
               volumes ready
               sandbox 0 ready
               exit web#1 code=1 at=95
               backoff web 10 at=60";
    check(&format!("{pod}\nnow 100"), expect!["wake 105"]);
    check(&format!("{pod}\nnow 105"), expect!["start web#2"]);
}

#[test]
fn a_container_that_ran_long_starts_afresh() {
    check(
        "container web
         volumes ready
         sandbox 0 ready
         exit web#1 code=1 at=900
         backoff web 300 at=60
         now 901",
        expect!["start web#2"],
    );
}

#[test]
fn success_is_final_on_failure_only() {
    let facts = "container web
                 volumes ready
                 sandbox 0 ready
                 exit web#0 code=0";
    check(&format!("pod restart=OnFailure\n{facts}"), expect!["stop-sandbox s0"]);
    check(&format!("pod restart=Always\n{facts}"), expect!["start web#1"]);
}

#[test]
fn a_dead_sandbox_is_replaced_and_everything_runs_again() {
    check(
        "init a
         container web
         volumes ready
         sandbox 0 dead
         exit a#0 code=0
         exit web#0 code=137",
        expect!["sandbox 1"],
    );
    check(
        "init a
         container web
         volumes ready
         sandbox 0 dead
         sandbox 1 ready
         exit a#0 code=0
         exit web#0 code=137",
        expect!["start a#1"],
    );
}

#[test]
fn the_records_of_an_old_sandbox_go_once_newer_ones_exist() {
    check(
        "container web
         volumes ready
         sandbox 0 dead
         sandbox 1 ready
         exit web#0 code=137
         exit web#1 code=1 sandbox=1
         run web#2 sandbox=1",
        expect!["remove web#0, remove-sandbox s0"],
    );
}

#[test]
fn deletion_stops_containers_then_sidecars_backwards_then_the_sandbox() {
    let pod = "pod grace=30 deleted
               sidecar one
               sidecar two
               container web
               volumes ready
               sandbox 0 ready";
    check(&format!("{pod}\nrun one#0\nrun two#0\nrun web#0"), expect!["stop web#0 by 130"]);
    check(&format!("{pod}\nrun one#0\nrun two#0\nexit web#0 code=0"), expect!["stop two#0 by 130"]);
    check(&format!("{pod}\nrun one#0\nexit two#0 code=0\nexit web#0 code=0"), expect!["stop one#0 by 130"]);
    check(&format!("{pod}\nexit one#0 code=0\nexit two#0 code=0\nexit web#0 code=0"), expect!["stop-sandbox s0"]);
}

#[test]
fn the_object_goes_last() {
    let pod = "container web
               sandbox 0 dead
               exit web#0 code=0";
    check(&format!("pod deleted\n{pod}"), expect!["tear-down"]);
    check("pod deleted torn-down\ncontainer web", expect!["delete"]);
    check("pod gone torn-down\ncontainer web", expect!["done"]);
}

#[test]
fn a_pod_deleted_before_it_began_is_deleted_at_once() {
    check("pod deleted\ncontainer web", expect!["tear-down"]);
}

#[test]
fn a_start_under_way_is_waited_for_before_the_sandbox_goes() {
    check(
        "pod deleted
         container web
         volumes ready
         sandbox 0 ready
         busy start web",
        expect![""],
    );
}

#[test]
fn a_pod_past_its_deadline_ends() {
    let pod = "pod deadline=60 grace=5
               container web
               volumes ready
               sandbox 0 ready
               run web#0";
    check(&format!("{pod}\nnow 69"), expect!["wake 70"]);
    check(&format!("{pod}\nnow 70"), expect!["stop web#0 by 75"]);
}

#[test]
fn a_final_phase_is_never_left_and_its_volumes_go() {
    check("last Failed\ncontainer web", expect!["release"]);
    check("last Failed\nreleased\ncontainer web", expect![""]);
}

#[test]
fn an_evicted_pod_gets_no_more_than_a_moment() {
    let pod = "pod grace=30
               container web
               volumes ready
               sandbox 0 ready
               rejected Evicted low on memory";
    check(&format!("{pod}\nrun web#0"), expect!["stop web#0 by 101"]);
    check(&format!("{pod}\nexit web#0 code=137"), expect!["stop-sandbox s0"]);
}

#[test]
fn a_doomed_container_is_stopped_and_started_anew() {
    let pod = "container web
               volumes ready
               sandbox 0 ready
               doom web#0 at=120";
    check(&format!("{pod}\nrun web#0"), expect!["stop web#0 by 120"]);
    check(&format!("{pod}\nexit web#0 code=137"), expect!["start web#1"]);
}

#[test]
fn an_image_error_becomes_a_back_off_that_is_announced_once() {
    let pod = "container web
               volumes ready
               sandbox 0 ready";
    check(&format!("{pod}\nfail web ErrImagePull at=99 retry=109"), expect!["wake 101"]);
    check(&format!("{pod}\nfail web ErrImagePull at=95 retry=105"), expect!["announce web, wake 105"]);
    check(&format!("{pod}\nfail web ErrImagePull at=95 retry=105 announced"), expect!["wake 105"]);
    check(&format!("{pod}\nfail web ErrImagePull at=95 retry=105 announced\nnow 105"), expect!["start web#0"]);
}

#[test]
fn a_container_created_but_never_started_keeps_its_attempt() {
    check(
        "container web
         volumes ready
         sandbox 0 ready
         created web#3",
        expect!["start web#3"],
    );
}

#[test]
fn of_two_live_sandboxes_the_older_goes() {
    let pod = "container web
               volumes ready
               sandbox 0 ready
               sandbox 1 ready
               run web#1 sandbox=1";
    check(pod, expect!["stop-sandbox s0"]);
}

#[test]
fn two_live_sandboxes_are_each_stopped_once_when_the_deadline_has_passed() {
    check(
        "pod deadline=60
         container web
         sandbox 0 ready
         sandbox 1 ready",
        expect!["stop-sandbox s1, stop-sandbox s0"],
    );
}

#[test]
fn a_resized_container_gets_its_new_limits_while_it_runs() {
    let pod = "container web
               volumes ready
               sandbox 0 ready";
    check(&format!("{pod}\nrun web#0 shares=512"), expect!["resize web#0"]);
    check(&format!("{pod}\nrun web#0 shares=512\nbusy resize web#0"), expect![""]);
    check(&format!("{pod}\nrun web#0"), expect![""]);
    check(&format!("pod deleted grace=5\n{pod}\nrun web#0 shares=512"), expect!["stop web#0 by 105"]);
}

#[test]
fn a_resized_pod_gets_its_new_limits_as_a_whole_while_it_runs() {
    let pod = |sandbox: &str| format!("container web\nvolumes ready\n{sandbox}\nrun web#0");
    check(&pod("sandbox 0 ready shares=512"), expect!["resize-pod s0"]);
    check(&format!("{}\nbusy resize-pod s0", pod("sandbox 0 ready shares=512")), expect![""]);
    check(&pod("sandbox 0 ready"), expect![""]);
    check(&format!("pod deleted grace=5\n{}", pod("sandbox 0 ready shares=512")), expect!["stop web#0 by 105"]);
}

#[test]
fn a_resize_of_the_pod_restarts_a_container_once_however_often_it_fails() {
    // The kernel refuses the new limit: the sandbox keeps the old one all along.
    let pod = "pod memory=64
               container large
               container b strict
               volumes ready
               sandbox 0 ready memory=96
               run large#0 whole=96";
    check(&format!("{pod}\nrun b#0 whole=96"), expect!["resize-pod s0, stop b#0 by 130"]);
    check(&format!("{pod}\nexit b#0 code=143 whole=96"), expect!["resize-pod s0, start b#1"]);
    check(&format!("{pod}\nexit b#0 code=143 whole=96\nrun b#1 whole=64"), expect!["resize-pod s0"]);
    // Of one that was made by an older node it is not known: what holds now counts.
    check(&format!("{pod}\nrun b#0"), expect!["resize-pod s0, stop b#0 by 130"]);
    check(&format!("{pod}\nrun b#0 whole=64"), expect!["resize-pod s0"]);
}

#[test]
fn a_container_that_the_kubelet_ended_is_started_anew_whatever_its_exit_code() {
    let pod = |policy: &str| format!("pod restart={policy}\ncontainer web\nvolumes ready\nsandbox 0 ready\nexit web#0 code=0");
    check(&format!("{}\ndoom web#0 at=120 anew", pod("OnFailure")), expect!["start web#1"]);
    check(&format!("{}\ndoom web#0 at=120 anew", pod("Never")), expect!["start web#1"]);
    check(&format!("{}\ndoom web#0 at=120", pod("OnFailure")), expect!["stop-sandbox s0"]);
    check(&format!("{}\ndoom web#0 at=120 anew\nlast Succeeded", pod("OnFailure")), expect!["stop-sandbox s0"]);
    let deleted = "pod deleted grace=5 restart=OnFailure\ncontainer web\nvolumes ready\nsandbox 0 ready\nexit web#0 code=0";
    check(&format!("{deleted}\ndoom web#0 at=120 anew"), expect!["stop-sandbox s0"]);
    // Nor has an init container done its work.
    let init = "init a\ncontainer web\nvolumes ready\nsandbox 0 ready\nexit a#0 code=0";
    check(&format!("{init}\ndoom a#0 at=120 anew"), expect!["start a#1"]);
}

/// Random facts; `plan` itself checks its plans in debug builds.
mod lint {
    use proptest::prelude::*;

    use crate::pod::fixture;

    /// A line that may or may not be among the facts.
    fn maybe(lines: Vec<&'static str>) -> impl Strategy<Value = String> {
        proptest::option::of(proptest::sample::select(lines)).prop_map(|it| it.unwrap_or_default().to_owned())
    }

    fn facts() -> impl Strategy<Value = String> {
        let pod = maybe(vec![
            "pod restart=Always grace=5",
            "pod restart=OnFailure",
            "pod restart=Never deadline=60",
            "pod deleted grace=5",
            "pod gone",
            "pod gone torn-down",
            "pod deleted torn-down",
        ]);
        let parts = [
            maybe(vec!["volumes ready"]).boxed(),
            maybe(vec!["sandbox 0 ready 10.0.0.1", "sandbox 0 dead"]).boxed(),
            maybe(vec!["sandbox 1 ready 10.0.0.2", "sandbox 1 dead"]).boxed(),
            maybe(vec!["run setup#0", "exit setup#0 code=0", "exit setup#0 code=1", "created setup#0"]).boxed(),
            maybe(vec!["run proxy#0", "run proxy#0 unhooked", "exit proxy#0 code=1", "run proxy#2 sandbox=1"]).boxed(),
            maybe(vec!["started proxy#0"]).boxed(),
            maybe(vec!["exit web#0 code=3", "exit web#0 code=0"]).boxed(),
            maybe(vec!["run web#1", "exit web#1 code=0", "exit web#1 code=1 at=99", "created web#1", "run web#1 sandbox=1"]).boxed(),
            maybe(vec!["run db#0", "exit db#0 code=0", "exit db#0 code=9"]).boxed(),
            maybe(vec!["backoff web 10 at=60", "backoff web 300 at=90"]).boxed(),
            maybe(vec!["fail web ErrImagePull at=95 retry=105", "fail db CreateContainerConfigError at=99 retry=100"]).boxed(),
            maybe(vec!["doom web#1 at=120", "doom web#1 at=120 anew"]).boxed(),
            maybe(vec!["busy start web", "busy volumes", "busy sandbox", "busy stop web#1 105", "busy tear-down"]).boxed(),
            maybe(vec!["last Succeeded", "last Failed", "last Running"]).boxed(),
            maybe(vec!["rejected Evicted low on memory"]).boxed(),
            maybe(vec!["now 69", "now 100", "now 106"]).boxed(),
        ];
        (pod, parts.to_vec()).prop_map(|(pod, parts)| {
            format!("{pod}\ninit setup\nsidecar proxy startup\ncontainer web readiness\ncontainer db\n{}", parts.join("\n"))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
        #[test]
        fn no_plan_breaks_a_rule(facts in facts()) {
            fixture::actions(&facts);
        }
    }
}
