//! The parameters that operations take, in paths and queries.

/// name, type, description
pub(super) type Parameter = (&'static str, &'static str, &'static str);

/// What stands in braces in a path.
pub(super) const IN_PATHS: [Parameter; 3] = [
    ("name", "string", "The name of the object."),
    ("namespace", "string", "The namespace of the object."),
    ("path", "string", "The path that is asked for where the proxy leads."),
];

pub(super) const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
pub(super) const DRY_RUN: Parameter = ("dryRun", "string", "With 'All', every stage runs and nothing is persisted.");
pub(super) const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "The name of the actor that makes the change, at most 128 characters.");
pub(super) const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What to do with unknown or duplicate fields: 'Ignore', 'Warn' (the default) or 'Strict'.");
pub(super) const FORCE: Parameter = ("force", "boolean", "Apply takes over the fields that others own.");
pub(super) const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK in a watch."),
    ("continue", "string", "Where the last page of a list ended."),
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
    ("limit", "integer", "The most objects in one page of a list."),
    ("resourceVersion", "string", "What version of the collection is to be shown, or watched from."),
    ("resourceVersionMatch", "string", "How resourceVersion is to be read: 'Exact' or 'NotOlderThan'."),
    ("sendInitialEvents", "boolean", "A watch begins with the objects that there are."),
    ("timeoutSeconds", "integer", "When the request ends, whatever it is doing."),
    ("watch", "boolean", "Shows changes as they happen instead of a list."),
];
pub(super) const DELETE: [Parameter; 4] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object goes; 0 is at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'."),
];

const CONTAINER: Parameter = ("container", "string", "Which container is meant; need not be said where the pod has only one.");
const STREAMS: [Parameter; 4] = [
    ("stderr", "boolean", "Passes on what the process writes to its standard error."),
    ("stdin", "boolean", "Passes on what is sent to the standard input of the process."),
    ("stdout", "boolean", "Passes on what the process writes to its standard output."),
    ("tty", "boolean", "The process is at a terminal."),
];
const ATTACH: [Parameter; 5] = [CONTAINER, STREAMS[0], STREAMS[1], STREAMS[2], STREAMS[3]];
const EXEC: [Parameter; 6] = [
    ("command", "string", "What to run and its arguments, each a parameter of its own; no shell reads them."),
    CONTAINER,
    STREAMS[0],
    STREAMS[1],
    STREAMS[2],
    STREAMS[3],
];
const LOG: [Parameter; 8] = [
    CONTAINER,
    ("follow", "boolean", "Goes on while the container writes."),
    ("limitBytes", "integer", "The most bytes that are shown."),
    ("previous", "boolean", "Shows the log of the container before its last restart."),
    ("sinceSeconds", "integer", "Shows what is not older than so many seconds."),
    ("stream", "string", "Which of the container's streams is shown: 'All', 'Stdout' or 'Stderr'."),
    ("tailLines", "integer", "The most lines that are shown, of the log's end."),
    ("timestamps", "boolean", "Begins each line with the time at which it was written."),
];
const PORT_FORWARD: [Parameter; 1] = [("ports", "integer", "The ports of the pod that streams may lead to.")];
const PROXY: [Parameter; 1] = [("path", "string", "The path that is asked for where the proxy leads.")];

/// What a subresource takes besides.
pub(super) fn of_subresource(name: &str) -> &'static [Parameter] {
    match name {
        "attach" => &ATTACH,
        "exec" => &EXEC,
        "log" => &LOG,
        "portforward" => &PORT_FORWARD,
        "proxy" => &PROXY,
        _ => &[],
    }
}
