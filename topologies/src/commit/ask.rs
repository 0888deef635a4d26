//! Asking several clouds at once, without waiting for one that hangs.
//!
//! What a majority of answers means is counted where it always was; here it is only decided how long to wait for the
//! others. More answers are better and never needed: a cloud that is late is served by its lane like one that was away.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use isobar_connectors::clouds::Cloud;

use super::environment::Environment;
use super::takeover::Group;
use crate::error::Error;

/// How long a take-over waits for a cloud that it can do without.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How much later than the majority a cloud may answer.
    pub(super) grace: Duration,
    /// How long one cloud may take for a claim; the next ones wait for it, because claims go to all clouds in one order.
    pub(super) claim: Duration,
}

impl Patience {
    /// For a process that starts: the more clouds take part, the less is left to lanes.
    pub(super) const START: Self = Self { grace: Duration::from_secs(5), claim: Duration::from_secs(15) };
    /// For a leader that takes over from itself: commits wait meanwhile.
    pub(super) const RENEWAL: Self =
        Self { grace: Duration::from_millis(500), claim: Duration::from_millis(1500) };
}

/// What is said of a cloud that is not waited for.
pub(super) fn silence(grace: Duration) -> object_store::Error {
    object_store::Error::Generic {
        store: "isobar",
        source: format!("no answer, not even {} s after a majority had answered", grace.as_secs_f32()).into(),
    }
}

/// The answers in the order of the questions; `None` where there was none `grace` after `needed` had answered well.
/// As long as fewer have, all are waited for.
pub(super) async fn ask<T, E>(
    environment: &dyn Environment,
    needed: usize,
    grace: Duration,
    questions: Vec<impl Future<Output = Result<T, E>>>,
) -> Vec<Option<Result<T, E>>> {
    let mut answers: Vec<Option<Result<T, E>>> = questions.iter().map(|_| None).collect();
    let numbered = questions.into_iter().enumerate();
    let mut asked: FuturesUnordered<_> =
        numbered.map(|(place, question)| async move { (place, question.await) }).collect();
    let mut answered_well = 0;
    while answered_well < needed {
        let Some((place, answer)) = asked.next().await else { return answers };
        answered_well += usize::from(answer.is_ok());
        answers[place] = Some(answer);
    }
    let mut grace = environment.sleep(grace);
    loop {
        tokio::select! {
            biased;
            answer = asked.next() => match answer {
                Some((place, answer)) => answers[place] = Some(answer),
                None => return answers,
            },
            () = &mut grace => return answers,
        }
    }
}

impl Group {
    /// Asks these clouds at once, and waits for a majority of the group and a little longer. Who is silent has failed.
    pub(crate) async fn ask<'a, T, F>(
        &'a self,
        clouds: &[usize],
        action: &str,
        question: impl Fn(&'a Cloud) -> F,
    ) -> Vec<(usize, Result<T, Error>)>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let questions: Vec<F> = clouds.iter().map(|index| question(&self.clouds[*index])).collect();
        let answers = ask(&*self.environment, self.majority(), self.patience.grace, questions).await;
        let answers = clouds.iter().zip(answers).map(|(index, answer)| {
            let silent = || Err(Error::store(&self.clouds[*index], action, silence(self.patience.grace)));
            (*index, answer.unwrap_or_else(silent))
        });
        answers.collect()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::{self, BoxFuture};

    use super::super::environment::Task;
    use super::*;

    /// Pauses end at once.
    #[derive(Debug)]
    struct Impatient;

    impl Environment for Impatient {
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            future::ready(()).boxed()
        }

        fn random(&self) -> u64 {
            4
        }

        fn spawn(&self, task: BoxFuture<'static, ()>) -> Task {
            Task::new(task)
        }
    }

    type Question = BoxFuture<'static, Result<u8, u8>>;

    fn answer(answer: Result<u8, u8>) -> Question {
        future::ready(answer).boxed()
    }

    fn hangs() -> Question {
        future::pending().boxed()
    }

    #[tokio::test]
    async fn one_that_hangs_is_not_waited_for_once_enough_have_answered() {
        let answers =
            ask(&Impatient, 2, Patience::START.grace, vec![answer(Ok(1)), hangs(), answer(Ok(3))]).await;
        assert_eq!(answers, [Some(Ok(1)), None, Some(Ok(3))]);
    }

    #[tokio::test]
    async fn all_are_waited_for_while_too_few_have_answered_well() {
        let late = async {
            tokio::task::yield_now().await;
            Ok(3)
        };
        let answers =
            ask(&Impatient, 2, Patience::START.grace, vec![answer(Ok(1)), answer(Err(2)), late.boxed()])
                .await;
        assert_eq!(answers, [Some(Ok(1)), Some(Err(2)), Some(Ok(3))]);
        let in_vain = ask(&Impatient, 2, Patience::START.grace, vec![answer(Ok(1)), answer(Err(2)), hangs()]);
        assert!(in_vain.now_or_never().is_none());
    }
}
