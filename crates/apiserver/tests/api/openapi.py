"""Compares an OpenAPI 2 document with what the official Python client, generated from upstream's, would ask: python3 openapi.py DOCUMENT."""

import inspect
import json
import re
import sys

from kubernetes import client

# Not offered: a selector of shards and the deletion of unreadable objects are alpha, and kubelets always prove who they are.
NOT_OFFERED = {"shardSelector", "ignoreStoreReadErrorWithClusterBreakingPotential", "insecureSkipTLSVerifyBackend"}
# Alpha in 1.37.
NOT_SERVED = {"/apis/storage.k8s.io/v1/csinodes/{name}/status"}
# Fewer were compared: the client is made otherwise than this script thinks.
OPERATIONS_MIN = 600
HTTP_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")


class Recorder:
    """Stands where the client turns a call into a request."""

    accepts = ()

    class configuration:
        client_side_validation = False

    def select_header_accept(self, accepts):
        self.accepts = accepts

    def select_header_content_type(self, types):
        return None

    def param_serialize(self, method, resource_path, query_params, body, **_):
        parameters = {name for name, _ in query_params} - NOT_OFFERED
        return method.lower(), resource_path, parameters, body is not None


def calls():
    """Each call: its name, its request, and what it reads from which answer."""
    for api in (getattr(client, name) for name in dir(client) if name.endswith("Api") and name != "CustomObjectsApi"):
        instance = api(Recorder())
        sources = dict(re.findall(r"\n    def (\w+)_with_http_info\((.*?)(?=\n    def )", inspect.getsource(inspect.getmodule(api)), re.S))
        for name, method in inspect.getmembers(instance, inspect.ismethod):
            if not name.endswith("_serialize"):
                continue
            instance.api_client.accepts = ()
            call = name[1 : -len("_serialize")]
            arguments = {key: None if key.startswith("_") and key != "_continue" else key for key in inspect.signature(method).parameters}
            answers = re.search(r"_response_types_map.*?= \{(.*?)\n        \}", sources[call], re.S).group(1)
            answers = {code: answer for code, answer in re.findall(r"'(\d+)': (?:\"(.*?)\"|None)", answers)}
            yield call, method(**arguments), answers, [media for media in instance.api_client.accepts if "cbor" not in media]


def short(answer):
    """The last word of a type: the client's names have one more where two types would be called the same."""
    if answer == "":
        return ""
    # The client's generator is told that a Status that answers a DELETE may be anything.
    return {"str": "string", "object": "Status"}.get(answer) or re.sub(r"^.*?V\d+((alpha|beta)\d+)?(?=[A-Z])", "", answer.split(".")[-1]).replace("VersionInfo", "Info")


def group_version(path):
    parts = path.split("/")
    return tuple(parts[1:3] if parts[1] == "api" else parts[1:4])


def main():
    document = json.load(open(sys.argv[1]))
    ours, names = {}, {}
    for path, item in document["paths"].items():
        for method in item.keys() & set(HTTP_METHODS):
            operation = item[method]
            parameters = item.get("parameters", []) + operation.get("parameters", [])
            answers = {code: short(answer.get("schema", {}).get("$ref") or answer.get("schema", {}).get("type", "")) for code, answer in operation["responses"].items()}
            names.setdefault(operation["operationId"], []).append(path)
            ours[method, path] = (
                {parameter["name"] for parameter in parameters if parameter["in"] == "query"},
                any(parameter["in"] == "body" for parameter in parameters),
                answers,
                operation,
            )
    served = {group_version(path) for path in document["paths"]}
    faults = [f"{name} is the name of {paths}" for name, paths in names.items() if len(paths) > 1]
    compared = 0
    for call, (method, path, parameters, has_body), answers, accepts in calls():
        if group_version(path) not in served or path in NOT_SERVED:
            continue
        where = f"{method} {path}"
        if (method, path) not in ours:
            faults.append(f"{where} is missing")
            continue
        compared += 1
        our_parameters, our_body, our_answers, operation = ours[method, path]
        # The client drops the group and version from the names of operations.
        tag = operation["tags"][0].replace("_", "").lower()
        name = operation["operationId"].lower()
        if name.replace(tag, "", 1) != call.replace("_", "") and name != call.replace("_", ""):
            faults.append(f"{where} is called {operation['operationId']}, not {call}")
        if our_parameters != parameters:
            faults.append(f"{where} takes {sorted(our_parameters)}, not {sorted(parameters)}")
        if our_body != has_body:
            faults.append(f"{where} takes a body: {our_body}, not {has_body}")
        if our_answers != {code: short(answer) for code, answer in answers.items()}:
            faults.append(f"{where} answers {our_answers}, not {answers}")
        # Discovery has no protobuf here.
        if accepts and not path.endswith("/") and operation["produces"] != accepts:
            faults.append(f"{where} produces {operation['produces']}, not {accepts}")
    if faults:
        sys.exit("\n".join(faults))
    if compared < OPERATIONS_MIN:
        sys.exit(f"only {compared} operations were found in the client")
    print(f"{compared} operations agree")


main()
