//! Refusals in gRPC's codes.

use tonic::Status;

use crate::serve::Refusal;

/// Characters of a message. It travels in a header, and drivers read no more than 8 KiB of headers; a character takes up to three
/// bytes there, of which an eighth is kept for the rest.
const MESSAGE_CHARACTERS_MAX: usize = 2_000;

/// `refusal` as gRPC says it.
pub(in crate::serve) fn status(refusal: Refusal) -> Status {
    let message = short(&refusal.to_string());
    match refusal {
        Refusal::Unauthenticated(_) => Status::unauthenticated(message),
        Refusal::Forbidden(_) => Status::permission_denied(message),
        Refusal::Wrong(_) => Status::invalid_argument(message),
        Refusal::NotFound(_) => Status::not_found(message),
        Refusal::TooMuch { .. } => Status::resource_exhausted(message),
        Refusal::Unavailable(_) => Status::unavailable(message),
        Refusal::Internal(_) => Status::internal(message),
    }
}

/// The beginning of `message`, which says that it is one.
pub(super) fn short(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARACTERS_MAX) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn each_refusal_has_its_code_and_keeps_its_words() {
        let limit = || Refusal::TooMuch { limit: "rows", message: "too many rows".to_owned() };
        let refusals = [
            (Refusal::Unauthenticated("who".to_owned()), Code::Unauthenticated, "who"),
            (Refusal::Forbidden("no".to_owned()), Code::PermissionDenied, "no"),
            (Refusal::Wrong("sql".to_owned()), Code::InvalidArgument, "sql"),
            (Refusal::NotFound("where".to_owned()), Code::NotFound, "where"),
            (limit(), Code::ResourceExhausted, "too many rows"),
            (Refusal::Unavailable("later".to_owned()), Code::Unavailable, "later"),
            (Refusal::Internal("ours".to_owned()), Code::Internal, "ours"),
        ];
        for (refusal, code, message) in refusals {
            let said = status(refusal);
            assert_eq!((said.code(), said.message()), (code, message));
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let said = status(Refusal::Wrong("ä".repeat(MESSAGE_CHARACTERS_MAX + 1)));
        assert_eq!(said.message(), format!("{} …", "ä".repeat(MESSAGE_CHARACTERS_MAX)));
        let whole = "ä".repeat(MESSAGE_CHARACTERS_MAX);
        assert_eq!(status(Refusal::Wrong(whole.clone())).message(), whole);
    }
}
