use expect_test::{Expect, expect};

use crate::pod::fixture;

fn check(facts: &str, expected: Expect) {
    expected.assert_eq(&fixture::status(facts));
}

#[test]
fn a_pod_past_its_deadline_fails_though_a_container_was_created_and_never_started() {
    let status = fixture::status(
        "pod restart=Never deadline=60
         container web
         created web#0",
    );
    assert!(status.starts_with("Failed (DeadlineExceeded)\nweb terminated(137 ContainerStatusUnknown)"), "{status}");
}

#[test]
fn a_new_pod_is_pending() {
    check(
        "container web",
        expect![[r#"
        Pending
        web waiting(ContainerCreating) restarts=0
        PodReadyToStartContainers=False
        Initialized=True
        Ready=False ContainersNotReady: containers with unready status: [web]
        ContainersReady=False ContainersNotReady: containers with unready status: [web]
        PodScheduled=True
    "#]],
    );
}

#[test]
fn init_containers_show_first() {
    check(
        "init a
         init b
         container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit a#0 code=0
         run b#0",
        expect![[r#"
            Pending
            a terminated(0 Completed) ready restarts=0
            b running started restarts=0
            web waiting(PodInitializing) restarts=0
            PodReadyToStartContainers=True
            Initialized=False ContainersNotInitialized: containers with incomplete status: [b]
            Ready=False ContainersNotReady: containers with unready status: [web]
            ContainersReady=False ContainersNotReady: containers with unready status: [web]
            PodScheduled=True
        "#]],
    );
}

#[test]
fn readiness_follows_the_probe() {
    let pod = "container web readiness
               volumes ready
               sandbox 0 ready 10.42.0.5
               run web#0";
    check(
        pod,
        expect![[r#"
            Running
            web running started restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False ContainersNotReady: containers with unready status: [web]
            ContainersReady=False ContainersNotReady: containers with unready status: [web]
            PodScheduled=True
        "#]],
    );
    check(
        &format!("{pod}\nready web#0"),
        expect![[r#"
            Running
            web running ready started restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=True
            ContainersReady=True
            PodScheduled=True
        "#]],
    );
}

#[test]
fn a_gate_keeps_the_pod_unready() {
    check(
        "pod gate=lb/ok
         container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         run web#0",
        expect![[r#"
            Running
            web running ready started restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False ReadinessGatesNotReady: corresponding condition of pod readiness gate "lb/ok" does not exist.
            ContainersReady=True
            PodScheduled=True
        "#]],
    );
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    check(
        "container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit web#1 code=3 at=95
         backoff web 10 at=60",
        expect![[r#"
            Running
            web waiting(CrashLoopBackOff) last=terminated(3 Error) restarts=1
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False ContainersNotReady: containers with unready status: [web]
            ContainersReady=False ContainersNotReady: containers with unready status: [web]
            PodScheduled=True
        "#]],
    );
}

#[test]
fn a_restarted_container_remembers_how_it_ended() {
    check(
        "container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit web#0 code=3 at=95
         run web#1",
        expect![[r#"
            Running
            web running last=terminated(3 Error) ready started restarts=1
            PodReadyToStartContainers=True
            Initialized=True
            Ready=True
            ContainersReady=True
            PodScheduled=True
        "#]],
    );
}

#[test]
fn an_image_that_cannot_be_fetched() {
    check(
        "container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         fail web ErrImagePull at=99 retry=109",
        expect![[r#"
            Pending
            web waiting(ErrImagePull) restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False ContainersNotReady: containers with unready status: [web]
            ContainersReady=False ContainersNotReady: containers with unready status: [web]
            PodScheduled=True
        "#]],
    );
    check(
        "container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         fail web ErrImagePull at=95 retry=105",
        expect![[r#"
            Pending
            web waiting(ImagePullBackOff) restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False ContainersNotReady: containers with unready status: [web]
            ContainersReady=False ContainersNotReady: containers with unready status: [web]
            PodScheduled=True
        "#]],
    );
}

#[test]
fn all_ended_well() {
    check(
        "pod restart=OnFailure
         container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit web#0 code=0",
        expect![[r#"
            Succeeded
            web terminated(0 Completed) restarts=0
            PodReadyToStartContainers=True
            Initialized=True PodCompleted
            Ready=False PodCompleted
            ContainersReady=False PodCompleted
            PodScheduled=True
        "#]],
    );
}

#[test]
fn one_ended_badly() {
    check(
        "pod restart=Never
         container a
         container b
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit a#0 code=0
         exit b#0 code=7",
        expect![[r#"
            Failed
            a terminated(0 Completed) restarts=0
            b terminated(7 Error) restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=False PodFailed
            ContainersReady=False PodFailed
            PodScheduled=True
        "#]],
    );
}

#[test]
fn a_failed_init_container_fails_the_pod_that_never_restarts() {
    check(
        "pod restart=Never
         init a
         container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         exit a#0 code=7",
        expect![[r#"
            Failed
            a terminated(7 Error) restarts=0
            web waiting(PodInitializing) restarts=0
            PodReadyToStartContainers=True
            Initialized=False ContainersNotInitialized: containers with incomplete status: [a]
            Ready=False PodFailed
            ContainersReady=False PodFailed
            PodScheduled=True
        "#]],
    );
}

#[test]
fn a_deleted_pod_that_never_ran_is_failed() {
    check(
        "pod deleted\ncontainer web",
        expect![[r#"
        Failed
        web terminated(137 ContainerStatusUnknown) restarts=0
        PodReadyToStartContainers=False
        Initialized=True
        Ready=False PodFailed
        ContainersReady=False PodFailed
        PodScheduled=True
    "#]],
    );
}

#[test]
fn a_deadline_passed() {
    check(
        "pod deadline=60
         container web
         volumes ready
         sandbox 0 ready 10.42.0.5
         run web#0",
        expect![[r#"
            Running
            web running ready started restarts=0
            PodReadyToStartContainers=True
            Initialized=True
            Ready=True
            ContainersReady=True
            PodScheduled=True
        "#]],
    );
}
