//! The shapes of answers, as Go gives them (spec 02 §3.2).

use proto::{Content, Features, Kind, Message, Object, ObjectPath, Operation, Route, Source, Status};
use serde_json::{Value, json};

/// The program at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peer {
    /// It takes a bare error for an empty object: some errors must look otherwise.
    Go,
    /// It knows errors when it sees them, and has these extras.
    Ours(Features),
}

/// `"OK"`.
pub(super) fn ok(request: &Message) -> Message {
    Message::answer_to(request, Source::EdgeController, Content::ok())
}

/// `"OK"` with the version of what was written.
pub(super) fn ok_at(request: &Message, written: &Object) -> Message {
    let mut message = ok(request);
    message.version.clone_from(&written.meta().resource_version);
    message
}

/// The object itself, with its version.
pub(super) fn object(request: &Message, object: &Object) -> Message {
    Message::answer_to(request, Source::EdgeController, Content::null()).with_object(object)
}

/// A text.
pub(super) fn text(request: &Message, text: &str) -> Message {
    Message::answer_to(request, Source::EdgeController, Content::text(text))
}

/// `{"Object":…,"Err":null}`.
pub(super) fn envelope(request: &Message, object: &Object) -> Message {
    let content = Content::envelope(Some(&Content::from(object)), None);
    Message::answer_to(request, Source::EdgeController, content)
}

/// What create answers: the object has no `kind` and no `apiVersion`.
pub(super) fn written(request: &Message, object: &Object) -> Message {
    envelope(request, &object.without_type())
}

/// What patches and the creation of Pods answer: the version stands in the header too.
pub(super) fn written_at(request: &Message, object: &Object) -> Message {
    let mut message = written(request, object);
    message.version.clone_from(&object.meta().resource_version);
    message
}

/// `{"Object":<shell>,"Err":{"ErrStatus":…}}`; the shell is `null` for a question.
pub(super) fn failed(request: &Message, shell: &Value, status: &Status) -> Message {
    let shell = Content::json(shell);
    let shell = (!shell.is_null()).then_some(&shell);
    Message::answer_to(request, Source::EdgeController, Content::envelope(shell, Some(status)))
}

/// `{"ErrStatus":…}`.
pub(super) fn bare(request: &Message, status: &Status) -> Message {
    Message::answer_to(request, Source::EdgeController, Content::error(status))
}

/// An error to whoever asked for an object. Go edges would store a bare one and use it as an empty object without an error; the
/// operation `error` with a text reaches the caller (spec 02 §3.2 c).
pub(super) fn refused(peer: Peer, request: &Message, status: &Status) -> Message {
    if peer != Peer::Go {
        return bare(request, status);
    }
    let mut message = text(request, &status.to_string());
    message.operation = Operation::Error;
    message
}

/// The answer on the type `node`, as edges up to v1.11 wait for theirs to `nodestatus` (spec 02 §3.1).
pub(super) fn as_node(mut message: Message, path: &ObjectPath) -> Message {
    message.route = Route::Object(ObjectPath {
        kind: Kind::Node,
        ..path.clone()
    });
    message
}

/// The empty Node that stands beside an error.
pub(super) fn node_shell() -> Value {
    json!({"metadata": {"creationTimestamp": null}, "spec": {}, "status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
            "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""}}})
}

/// The empty Pod that stands beside an error.
pub(super) fn pod_shell() -> Value {
    json!({"metadata": {"creationTimestamp": null}, "spec": {"containers": null}, "status": {}})
}

/// The empty Lease that stands beside an error.
pub(super) fn lease_shell() -> Value {
    json!({"metadata": {"creationTimestamp": null}, "spec": {}})
}

/// The empty CertificateSigningRequest that stands beside an error.
pub(super) fn csr_shell() -> Value {
    json!({"metadata": {"creationTimestamp": null}, "spec": {"request": null, "signerName": ""}, "status": {}})
}
