//! What the error channel says when a session ends: a `v1.Status`, whose cause carries the exit code (remotecommand, constants.go).

use serde_json::json;

use super::Ended;

/// As JSON, for the protocols from v4 on.
pub(super) fn json(ended: &Ended) -> Vec<u8> {
    let status = match ended {
        Ended::Done | Ended::Code(0) => json!({ "metadata": {}, "status": "Success" }),
        Ended::Code(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Ended::Failed(reason) => json!({
            "metadata": {},
            "status": "Failure",
            "message": reason,
            "reason": "InternalError",
            "details": { "causes": [{ "message": reason }] },
            "code": 500,
        }),
    };
    status.to_string().into_bytes()
}

/// As text, for the protocols before v4: nothing means success.
pub(super) fn text(ended: &Ended) -> Vec<u8> {
    match ended {
        Ended::Done | Ended::Code(0) => Vec::new(),
        Ended::Code(code) => format!("error executing command in container: command terminated with exit code {code}").into_bytes(),
        Ended::Failed(reason) => reason.clone().into_bytes(),
    }
}
