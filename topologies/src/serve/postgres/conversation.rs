//! One message after the other.

use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::ReadyForQuery;

use super::failure::{Failure, Trouble, code};
use super::frontend::{CALL, Frontend, QUERY, SYNC, TERMINATE};
use super::session::Session;
use super::wire::{Input, Output};
use super::{Cancelable, Shared};

/// Answers messages until the client or the server ends it; what is being answered when the server is to stop is answered first.
pub(super) async fn converse(
    mut input: Input,
    mut output: Output,
    mut session: Session,
    cancelable: &Cancelable,
    shared: &Shared,
) -> Result<(), Trouble> {
    // After an error among the messages of a prepared statement, all up to the next `Sync` are passed over.
    let mut is_skipping = false;
    loop {
        let received = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => Err(stopping().into()),
            received = tokio::time::timeout(shared.idle_time_max, input.next()) => {
                received.unwrap_or_else(|_| Err(idle().into()))
            }
        };
        let (tag, body) = match received {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(trouble) => return farewell(&mut output, trouble).await,
        };
        if is_skipping && !matches!(tag, SYNC | TERMINATE) {
            continue;
        }
        // Nobody sends `Sync` behind these.
        let is_alone = matches!(tag, QUERY | CALL);
        let answered = match Frontend::decode(tag, body) {
            Ok(Frontend::Terminate) => return Ok(()),
            Ok(message) => {
                is_skipping = false;
                let cancelled = cancelable.begin();
                let answer = answer(&mut session, message, &mut output);
                let answered = tokio::select! {
                    biased;
                    () = cancelled.cancelled() => {
                        Err(Failure::new(code::CANCELED, "canceling statement due to user request").into())
                    }
                    answered = answer => answered,
                    () = input.gone() => return Ok(()),
                };
                // What is asked for later has nothing to end.
                cancelable.begin();
                answered
            }
            Err(failure) => Err(failure.into()),
        };
        match answered {
            Ok(()) => (),
            Err(Trouble::Failed(failure)) if !failure.is_fatal => {
                session.failed();
                output.put(&failure.message());
                if is_alone {
                    output.put(&PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(session.status())));
                } else {
                    is_skipping = true;
                }
                output.flush().await?;
            }
            Err(trouble) => return farewell(&mut output, trouble).await,
        }
    }
}

/// Within the time that the client allows.
async fn answer(session: &mut Session, message: Frontend, output: &mut Output) -> Result<(), Trouble> {
    match session.statement_timeout() {
        None => session.answer(message, output).await,
        Some(time) => match tokio::time::timeout(time, session.answer(message, output)).await {
            Ok(answered) => answered,
            Err(_) => {
                Err(Failure::new(code::CANCELED, "canceling statement due to statement timeout").into())
            }
        },
    }
}

fn stopping() -> Failure {
    Failure::fatal(code::SHUTDOWN, "terminating connection due to administrator command: the server stops")
}

fn idle() -> Failure {
    Failure::fatal(code::IDLE, "terminating connection due to idle-session timeout: connect again")
}

/// Tells the client why this is the end.
async fn farewell(output: &mut Output, trouble: Trouble) -> Result<(), Trouble> {
    match trouble {
        Trouble::Failed(failure) => {
            output.put(&failure.clone().message());
            output.close().await;
            Err(failure.into())
        }
        gone => Err(gone),
    }
}
