"""Drives a cluster through the official Python client: python3 client.py KUBECONFIG IMAGE."""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

TIME_MAX = 60
NAMESPACE = "python"


def pod(name, command, ready=None):
    """`ready` is a command that succeeds once the pod may be asked; without it, it is ready as soon as it runs."""
    probe = {"readinessProbe": {"exec": {"command": ["sh", "-c", ready]}, "periodSeconds": 1}} if ready else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", command], **probe}],
        },
    }


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")
    print(f"{what}: ok", flush=True)


def refused(what, status, reason, call):
    try:
        call()
    except ApiException as refusal:
        expect(what, (refusal.status, json.loads(refusal.body)["reason"]), (status, reason))
    else:
        sys.exit(f"{what}: was not refused")


def main():
    global core
    apps = client.AppsV1Api()
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))

    settings = core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="settings"), data={"a": "1"}))
    expect("create", settings.data, {"a": "1"})
    since = settings.metadata.resource_version
    refused("create again", 409, "AlreadyExists", lambda: core.create_namespaced_config_map(NAMESPACE, settings_again()))
    expect("merge patch", core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"b": "2"}}).data, {"a": "1", "b": "2"})
    steps = [{"op": "remove", "path": "/data/a"}]
    expect("json patch", core.patch_namespaced_config_map("settings", NAMESPACE, steps).data, {"b": "2"})
    core.delete_namespaced_config_map("settings", NAMESPACE)
    refused("read what is gone", 404, "NotFound", lambda: core.read_namespaced_config_map("settings", NAMESPACE))
    kinds = []
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=since, field_selector="metadata.name=settings", timeout_seconds=TIME_MAX):
        kinds.append((event["type"], event["object"].data))
        if event["type"] == "DELETED":
            watching.stop()
    expect("watch from a resourceVersion", kinds, [("MODIFIED", {"a": "1", "b": "2"}), ("MODIFIED", {"b": "2"}), ("DELETED", {"b": "2"})])

    core.create_namespaced_pod(NAMESPACE, pod("talker", "echo one; echo two; touch /said; exec sleep 1000", ready="test -e /said"))
    watching = watch.Watch()
    for event in watching.stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=TIME_MAX):
        statuses = event["object"].status.container_statuses
        if statuses and statuses[0].ready:
            watching.stop()
            break
    else:
        sys.exit("the pod was not ready in time")
    expect("list", [item.metadata.name for item in core.list_namespaced_pod(NAMESPACE, label_selector="app=talker").items], ["talker"])
    expect("list of another label", core.list_namespaced_pod(NAMESPACE, label_selector="app=other").items, [])
    expect("logs", core.read_namespaced_pod_log("talker", NAMESPACE), "one\ntwo\n")
    expect("the log's tail", core.read_namespaced_pod_log("talker", NAMESPACE, tail_lines=1), "two\n")

    run = lambda *command, **options: stream(core.connect_get_namespaced_pod_exec, "talker", NAMESPACE, command=list(command), stderr=True, stdin=False, stdout=True, tty=False, **options)
    expect("exec", run("echo", "a b"), "a b\n")
    session = stream(core.connect_get_namespaced_pod_exec, "talker", NAMESPACE, command=["sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
    session.write_stdin("hello\n")
    session.run_forever(timeout=TIME_MAX)
    expect("exec with input", (session.read_stdout(), session.read_stderr(), session.returncode), ("got hello\n", "bad\n", 3))
    refused_exec("exec in no pod", lambda: stream(core.connect_get_namespaced_pod_exec, "nosuch", NAMESPACE, command=["true"], stdout=True))

    follow()

    web = core.create_namespaced_pod(NAMESPACE, pod("web", "mkdir /www; echo served > /www/index.html; exec httpd -f -p 8080 -h /www", ready="wget -q -O- 127.0.0.1:8080"))
    wait_ready("web")
    forwarded = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
    socket = forwarded.socket(8080)
    socket.setblocking(True)
    socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while chunk := socket.recv(4096):
        answer += chunk
    expect("port-forward", answer.split(b"\r\n\r\n")[-1], b"served\n")

    deployment = {
        "metadata": {"name": "twins"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "twins"}}, "template": {"metadata": {"labels": {"app": "twins"}}, "spec": pod("twins", "exec sleep 1000")["spec"]}},
    }
    apps.create_namespaced_deployment(NAMESPACE, deployment)
    expect("scale", apps.patch_namespaced_deployment_scale("twins", NAMESPACE, {"spec": {"replicas": 2}}).spec.replicas, 2)
    for event in watch.Watch().stream(apps.list_namespaced_deployment, NAMESPACE, timeout_seconds=TIME_MAX):
        if event["object"].status.ready_replicas == 2:
            break
    else:
        sys.exit("the deployment was not ready in time")
    expect("strategic merge patch", image_after_patch(apps), [("main", IMAGE), ("second", IMAGE)])

    page = core.list_namespaced_pod(NAMESPACE, limit=1)
    names = [page.items[0].metadata.name]
    while page.metadata._continue:
        page = core.list_namespaced_pod(NAMESPACE, limit=1, _continue=page.metadata._continue)
        names += [item.metadata.name for item in page.items]
    expect("pages", "talker" in names and "web" in names, True)

    core.delete_namespace(NAMESPACE)
    for event in watch.Watch().stream(core.list_namespace, field_selector=f"metadata.name={NAMESPACE}", timeout_seconds=TIME_MAX):
        if event["type"] == "DELETED":
            break
    else:
        sys.exit("the namespace was not gone in time")
    print("done")


def settings_again():
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name="settings"))


def refused_exec(what, call):
    try:
        call()
    except ApiException as refusal:
        expect(what, refusal.status in (0, 404) and "404" in str(refusal), True)
    else:
        sys.exit(f"{what}: was not refused")


def image_after_patch(apps):
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "second", "image": IMAGE, "command": ["sleep", "1000"]}]}}}}
    changed = apps.patch_namespaced_deployment("twins", NAMESPACE, patch, _content_type="application/strategic-merge-patch+json")
    return sorted((it.name, it.image) for it in changed.spec.template.spec.containers)


def wait_ready(name):
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, field_selector=f"metadata.name={name}", timeout_seconds=TIME_MAX):
        statuses = event["object"].status.container_statuses
        if statuses and statuses[0].ready:
            return
    sys.exit(f"{name} was not ready in time")


def follow():
    core.create_namespaced_pod(NAMESPACE, pod("counter", "for i in 1 2 3; do echo line $i; sleep 0.2; done"))
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=counter", timeout_seconds=TIME_MAX):
        if event["object"].status.phase != "Pending":
            break
    lines = list(watch.Watch().stream(core.read_namespaced_pod_log, "counter", NAMESPACE))
    expect("logs that are followed", lines, ["line 1", "line 2", "line 3"])


if __name__ == "__main__":
    kubeconfig, IMAGE = sys.argv[1:]
    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()
    main()
