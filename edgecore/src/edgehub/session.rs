//! One session with the cloud as a state machine without I/O: who waits for what, when something is to be sent, when the peer is dead.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proto::{Content, Group, Kind, Lane, Message, MsgId, Operation, Source};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::inboxes::To;
use super::metrics::{Class, Metrics, class};
use crate::uplink::Outgoing;

/// Questions that wait for answers; one more is refused at once (its asker sees a lost link and asks again).
const MAX_WAITING: usize = 1024;
/// Messages that the rate limit holds back; beyond it nothing more is taken from the uplink's queue.
const MAX_HELD: usize = 256;
/// How often the peer is pinged: half-open links are found within two of it.
const PING: Duration = Duration::from_secs(10);
/// No byte for this long after a ping: the link is dead.
const SILENCE: Duration = Duration::from_secs(20);
/// A Go cloud that refused this node keeps the connection open and answers nothing (spec 01 §5.1).
const UNANSWERED: Duration = Duration::from_secs(60);
/// How many seconds of the configured rate may be saved up. A node that starts thirty pods asks a hundred questions at once; the
/// limit is there for floods that last.
const SAVED: u32 = 10;

/// What a session needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `heartbeat`.
    pub(super) heartbeat: Duration,
    /// `messageQPS`; 0 is no limit.
    pub(super) rate: u32,
    /// `messageBurst`.
    pub(super) burst: u32,
}

/// Where a received message goes.
#[derive(Debug)]
pub(super) enum Received {
    /// To its asker.
    Answer(oneshot::Sender<Message>, Message),
    /// To a module.
    Module(To, Message),
    /// Nowhere; its asker has gone. The cloud repeats it until it is acknowledged.
    Late(Message),
    /// Nowhere.
    Unknown(Message),
}

/// What is due now.
#[derive(Debug)]
pub(super) enum Due {
    /// A message, ahead of all others.
    Keepalive(Message),
    /// A ping.
    Ping,
    /// A message that the rate limit held back.
    Send(Message),
    /// Nothing will come any more.
    Dead(&'static str),
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Message>,
    of_node: bool,
    class: Class,
    since: Instant,
}

/// The state.
#[derive(Debug)]
pub(super) struct Session {
    limits: Limits,
    metrics: Metrics,
    waiting: HashMap<MsgId, Waiting>,
    held: VecDeque<Message>,
    tokens: f64,
    filled: Instant,
    next_keepalive: Instant,
    next_ping: Instant,
    heard: Instant,
    unanswered: Option<Instant>,
}

impl Drop for Session {
    /// Without the session no answer comes: owners ask again in the next one.
    fn drop(&mut self) {
        for waiting in self.waiting.values() {
            self.metrics.retried(&waiting.class);
        }
        self.metrics.waiting(std::iter::empty());
    }
}

impl Session {
    pub(super) fn new(limits: Limits, metrics: Metrics, now: Instant) -> Self {
        Self {
            limits,
            metrics,
            waiting: HashMap::new(),
            held: VecDeque::new(),
            tokens: capacity(limits),
            filled: now,
            next_keepalive: now,
            next_ping: now + PING,
            heard: now,
            unanswered: None,
        }
    }

    /// Whether the uplink's queue may be read.
    pub(super) fn takes_more(&self) -> bool {
        self.held.len() < MAX_HELD
    }

    /// Something came, whatever it was.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A message came (spec 01 §6).
    pub(super) fn received(&mut self, message: Message) -> Received {
        if let Some(parent) = &message.parent {
            if let Some(waiting) = self.waiting.remove(parent) {
                if waiting.of_node {
                    self.unanswered = None;
                }
                self.metrics.acknowledged(&waiting.class);
                return Received::Answer(waiting.answer, message);
            }
            let repeated = message.group == Group::Resource && message.operation == Operation::Response;
            return if repeated {
                Received::Late(message)
            } else {
                Received::Unknown(message)
            };
        }
        match message.group {
            Group::Resource | Group::Func => Received::Module(To::Meta, message),
            Group::Twin => Received::Module(To::Twin, message),
            Group::User if message.source == Source::RouterEventBus => Received::Module(To::Bus, message),
            _ => Received::Unknown(message),
        }
    }

    /// Something is to be sent. Returns it if it may go now; the rest is held back until it is due.
    pub(super) fn outgoing(&mut self, outgoing: Outgoing, now: Instant) -> Option<Message> {
        let message = match outgoing {
            Outgoing::Tell(message) => message,
            Outgoing::Ask { message, answer } => {
                if answer.is_closed() {
                    return None;
                }
                if self.waiting.len() >= MAX_WAITING {
                    self.forget_given_up();
                }
                if self.waiting.len() >= MAX_WAITING {
                    self.metrics.dropped(&message, "full");
                    return None;
                }
                let of_node = matches!(message.route.kind(), Some(Kind::Node | Kind::Lease));
                if of_node {
                    self.unanswered.get_or_insert(now);
                }
                let waiting = Waiting {
                    answer,
                    of_node,
                    class: class(&message),
                    since: now,
                };
                self.waiting.insert(message.id.clone(), waiting);
                message
            }
        };
        // An acknowledgement that waits makes the cloud send everything again.
        let exempt =
            matches!(message.operation, Operation::Response | Operation::Error) || message.lane() == Lane::Urgent;
        if exempt || self.limits.rate == 0 {
            return Some(message);
        }
        self.refill(now);
        if self.held.is_empty() && self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Some(message);
        }
        self.held.push_back(message);
        None
    }

    /// What is due at this moment; to be called until it returns nothing. Without `room` nothing but what goes ahead of all.
    pub(super) fn due(&mut self, now: Instant, room: bool) -> Option<Due> {
        if now >= self.next_keepalive {
            self.next_keepalive = now + self.limits.heartbeat;
            return Some(Due::Keepalive(Message::keepalive()));
        }
        if now.duration_since(self.heard) >= SILENCE {
            return Some(Due::Dead("nothing was heard from cloudcore for 20s"));
        }
        if self
            .unanswered
            .is_some_and(|since| now.duration_since(since) >= UNANSWERED)
        {
            return Some(Due::Dead("cloudcore did not answer about this node for 60s"));
        }
        if now >= self.next_ping {
            self.next_ping = now + PING;
            self.forget_given_up();
            let ages = self.waiting.values();
            self.metrics
                .waiting(ages.map(|waiting| (waiting.class.clone(), now.duration_since(waiting.since))));
            return Some(Due::Ping);
        }
        self.refill(now);
        if room
            && self.tokens >= 1.0
            && let Some(message) = self.held.pop_front()
        {
            self.tokens -= 1.0;
            return Some(Due::Send(message));
        }
        None
    }

    /// When to call [`Session::due`] again.
    pub(super) fn deadline(&self, room: bool) -> Instant {
        let mut deadline = self.next_keepalive.min(self.next_ping).min(self.heard + SILENCE);
        if let Some(since) = self.unanswered {
            deadline = deadline.min(since + UNANSWERED);
        }
        if room && !self.held.is_empty() {
            let missing = (1.0 - self.tokens).max(0.0) / f64::from(self.limits.rate.max(1));
            deadline = deadline.min(self.filled + Duration::from_secs_f64(missing));
        }
        deadline
    }

    /// Askers whose time is over ask again.
    fn forget_given_up(&mut self) {
        self.waiting.retain(|_, waiting| {
            let waits = !waiting.answer.is_closed();
            if !waits {
                self.metrics.retried(&waiting.class);
            }
            waits
        });
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = passed
            .mul_add(f64::from(self.limits.rate), self.tokens)
            .min(capacity(self.limits));
    }
}

/// An acknowledgement for an answer that came too late.
pub(super) fn late_ack(message: &Message) -> Message {
    let mut ack = Message::ack_of(message);
    ack.content = Content::ok();
    ack
}

fn capacity(limits: Limits) -> f64 {
    f64::from(limits.burst.max(limits.rate.saturating_mul(SAVED)).max(1))
}

#[cfg(test)]
mod tests {
    use proto::ObjectPath;

    use super::*;

    const LIMITS: Limits = Limits {
        heartbeat: Duration::from_secs(15),
        rate: 30,
        burst: 60,
    };

    fn question(kind: Kind) -> Message {
        Message::new(
            Source::Edged,
            Group::Meta,
            Operation::Query,
            ObjectPath::new("a", kind, "b"),
            Content::null(),
        )
    }

    fn drain(session: &mut Session, now: Instant) -> Vec<Due> {
        std::iter::from_fn(|| session.due(now, true)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_keepalive_goes_at_once_and_then_by_the_heartbeat() {
        let start = Instant::now();
        let mut session = Session::new(LIMITS, Metrics::default(), start);
        assert!(matches!(drain(&mut session, start).as_slice(), [Due::Keepalive(_)]));
        assert!(drain(&mut session, start + Duration::from_secs(9)).is_empty());
        session.heard(start + Duration::from_secs(15));
        let due = drain(&mut session, start + Duration::from_secs(15));
        assert!(matches!(due.as_slice(), [Due::Keepalive(_), Due::Ping]), "{due:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_finds_its_question_once() {
        let now = Instant::now();
        let mut session = Session::new(LIMITS, Metrics::default(), now);
        let message = question(Kind::ConfigMap);
        let id = message.id.clone();
        let (answer, mut waiting) = oneshot::channel();
        assert!(session.outgoing(Outgoing::Ask { message, answer }, now).is_some());
        let reply = question(Kind::ConfigMap).answering(&id);
        let mut again = reply.clone();
        again.operation = Operation::Response;
        again.group = Group::Resource;
        let Received::Answer(sender, reply) = session.received(reply) else {
            panic!("no answer")
        };
        sender.send(reply).expect("asker waits");
        assert!(waiting.try_recv().is_ok());
        assert!(matches!(session.received(again), Received::Late(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_answers_nothing_about_the_node_is_dead_after_a_minute() {
        let start = Instant::now();
        let mut session = Session::new(LIMITS, Metrics::default(), start);
        for second in (0..60).step_by(10) {
            let now = start + Duration::from_secs(second);
            session.heard(now);
            let (answer, _gone) = oneshot::channel();
            session.outgoing(
                Outgoing::Ask {
                    message: question(Kind::Lease),
                    answer,
                },
                now,
            );
            assert!(!drain(&mut session, now).iter().any(|due| matches!(due, Due::Dead(_))));
        }
        let now = start + Duration::from_secs(60);
        session.heard(now);
        assert!(session.deadline(true) <= now);
        let due: Vec<Due> = (0..4).filter_map(|_| session.due(now, true)).collect();
        assert!(due.iter().any(|due| matches!(due, Due::Dead(_))), "{due:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_limit_holds_back_floods_but_no_acknowledgement() {
        let start = Instant::now();
        let mut session = Session::new(LIMITS, Metrics::default(), start);
        drain(&mut session, start);
        let sent = (0..400)
            .filter(|_| session.outgoing(Outgoing::Tell(question(Kind::Event)), start).is_some())
            .count();
        assert_eq!(sent, 300);
        let ack = Message::ack_of(&question(Kind::Pod));
        assert!(session.outgoing(Outgoing::Tell(ack), start).is_some());
        let later = start + Duration::from_secs(1);
        let due = drain(&mut session, later)
            .into_iter()
            .filter(|due| matches!(due, Due::Send(_)))
            .count();
        assert_eq!(due, 30);
        assert!(session.takes_more());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_found_out() {
        let start = Instant::now();
        let mut session = Session::new(LIMITS, Metrics::default(), start);
        let now = start + SILENCE;
        let due: Vec<Due> = (0..3).filter_map(|_| session.due(now, true)).collect();
        assert!(due.iter().any(|due| matches!(due, Due::Dead(_))), "{due:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_became_of_questions_is_counted() {
        let start = Instant::now();
        let mut registry = prometheus_client::registry::Registry::default();
        let mut session = Session::new(LIMITS, Metrics::register(&mut registry), start);
        drain(&mut session, start);
        let mut ask = || {
            let (answer, waits) = oneshot::channel();
            let message = question(Kind::ConfigMap);
            let id = message.id.clone();
            session.outgoing(Outgoing::Ask { message, answer }, start);
            (id, waits)
        };
        let (answered, given_up, _waits) = (ask(), ask(), ask());
        drop(given_up);
        let answer = Message::answer_to(&question(Kind::ConfigMap), Source::EdgeController, Content::null());
        session.received(answer.answering(&answered.0));
        session.heard(start + PING);
        drain(&mut session, start + PING);
        let told = |registry: &prometheus_client::registry::Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
            text
        };
        let text = told(&registry);
        for line in [
            "edgehub_messages_acknowledged_total{class=\"question\"} 1",
            "edgehub_messages_retried_total{class=\"question\"} 1",
            "edgehub_messages_oldest_age_seconds{class=\"question\"} 10.0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        drop(session);
        assert!(told(&registry).contains("edgehub_messages_retried_total{class=\"question\"} 2"));
    }
}
