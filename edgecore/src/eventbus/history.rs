//! Questions for the history of devices: subscribed only where there is one, answered in their order, never at the expense of twins.

use std::sync::Arc;

use bytes::Bytes;
use common::Tasks;
use tokio::sync::mpsc;

use super::transport::Bus;
use crate::history::{self, History};

/// Questions that wait; further ones are dropped.
const QUEUE: usize = 16;

/// Where questions go.
#[derive(Clone)]
pub(super) struct Questions(mpsc::Sender<(String, Bytes)>);

/// What is asked, to be answered once the brokers are there.
pub(super) struct Asked(mpsc::Receiver<(String, Bytes)>);

/// Both ends.
pub(super) fn questions() -> (Questions, Asked) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Questions(sender), Asked(receiver))
}

impl Questions {
    /// Takes a message if it is a question; `false` if it is not. One that finds too many waiting is dropped.
    pub(super) fn take(&self, topic: &str, payload: &Bytes) -> bool {
        let is_question = history::is_question(topic);
        if is_question {
            let _ = self.0.try_send((topic.to_owned(), payload.clone()));
        }
        is_question
    }
}

/// Subscribes and answers.
pub(super) fn start(history: History, asked: Asked, bus: Arc<Bus>, tasks: &Tasks) {
    bus.subscribe(history::FILTER);
    let Asked(mut asked) = asked;
    tasks.spawn("eventbus history", async move {
        while let Some((topic, payload)) = asked.recv().await {
            if let Some(answer) = history.answer(&topic, &payload).await {
                bus.publish(&answer);
            }
        }
    });
}
