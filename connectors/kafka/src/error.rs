//! Errors of Kafka as ours: the kind decides whether it is tried again, and who has to act.

use millstream_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What follows from a code.
pub(crate) fn kind_of(code: Code) -> ErrorKind {
    use Code::*;
    match code {
        Authentication
        | SaslAuthenticationFailed
        | TopicAuthorizationFailed
        | GroupAuthorizationFailed
        | ClusterAuthorizationFailed
        | TransactionalIdAuthorizationFailed
        | UnsupportedSASLMechanism
        | IllegalSASLState
        | SecurityDisabled
        | SSL => ErrorKind::Permission,
        UnknownTopicOrPartition | UnknownTopic | UnknownPartition | UnknownTopicId => ErrorKind::NotFound,
        MessageSizeTooLarge | MessageBatchTooLarge => ErrorKind::TooLarge,
        InvalidRecord
        | InvalidMessage
        | InvalidTimestamp
        | PolicyViolation
        | UnsupportedForMessageFormat
        | InvalidMessageSize
        | BadMessage => ErrorKind::Rejected,
        Fenced | ProducerFenced | InvalidProducerEpoch | TransactionCoordinatorFenced | FencedInstanceId => {
            ErrorKind::Fenced
        }
        InvalidArgument
        | InvalidTopic
        | InvalidConfig
        | InvalidGroupId
        | InvalidSessionTimeout
        | InvalidTransactionTimeout
        | InconsistentGroupProtocol
        | UnsupportedCompressionType
        | UnsupportedAssignor
        | UnreleasedInstanceId
        | InvalidRequiredAcks
        | OffsetMetadataTooLarge => ErrorKind::Option,
        OperationTimedOut | RequestTimedOut | MessageTimedOut | TimedOutQueue => ErrorKind::Timeout,
        ThrottlingQuotaExceeded => ErrorKind::Throttled,
        QueueFull => ErrorKind::Full,
        NotImplemented | UnsupportedFeature | UnsupportedVersion => ErrorKind::Unsupported,
        OffsetOutOfRange | AutoOffsetReset | LogTruncation | NoOffset => ErrorKind::StateMismatch,
        _ => ErrorKind::Unavailable,
    }
}

/// What a person can do about a code; empty where the message says it all.
fn hint_of(code: Code) -> &'static str {
    match kind_of(code) {
        ErrorKind::Permission if code == Code::SSL => "check `tls.ca`, `tls.cert` and the broker's name",
        ErrorKind::Permission if matches!(code, Code::Authentication | Code::SaslAuthenticationFailed) => {
            "check user, password and `auth.mechanism`"
        }
        ErrorKind::Permission => "check what this user may do (`kafka-acls.sh --list`)",
        ErrorKind::Unavailable | ErrorKind::Timeout => "check that the brokers run and can be reached from here",
        ErrorKind::Fenced => "another runner has the same name: stop one of them, or give it another name",
        ErrorKind::Unsupported => "the broker is too old for it",
        _ => "",
    }
}

/// `what` could not be done, because of this.
pub(crate) fn failed(what: impl Into<String>, error: KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(code) => coded(what, code).caused_by(error),
        // The only errors that can hold an option's value, which may be a secret.
        None if matches!(error, KafkaError::ClientConfig(..)) => {
            Error::new(ErrorKind::Option, what).hint("check the options and properties")
        }
        None if matches!(&error, KafkaError::ClientCreation(reason) if reason.contains("ssl.")) => {
            Error::new(ErrorKind::Option, what)
                .caused_by(error)
                .hint("check the files of `tls`, and `tls.key_password`")
        }
        None if matches!(error, KafkaError::ClientCreation(_)) => Error::new(ErrorKind::Option, what).caused_by(error),
        None => Error::new(ErrorKind::Unavailable, what).caused_by(error),
    }
}

/// `what` could not be done, because of a code.
pub(crate) fn coded(what: impl Into<String>, code: Code) -> Error {
    let error = Error::new(kind_of(code), what);
    match hint_of(code) {
        "" => error,
        hint => error.hint(hint),
    }
}

/// A call that the contract forbids: nothing is open.
pub(crate) fn not_open() -> Error {
    Error::new(ErrorKind::Bug, "the connection is used before it is open")
}

/// A thread of ours has gone.
pub(crate) fn gone() -> Error {
    Error::new(ErrorKind::Bug, "the thread that speaks to Kafka has died")
}

/// There is no such topic.
pub(crate) fn no_topic(topic: &str, shown: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}` at {shown}"))
        .hint("create it, or check its name: `millstream kafka topics URL` lists those that this user may see")
}
