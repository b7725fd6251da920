//! Error rules: what becomes of a record or connection that failed.

use std::time::Duration;

use millstream_core::{Class, Error, ErrorKind, Result, Span};
use regex::Regex;
use serde::Deserialize;

/// One rule as written: the first whose `match` fits decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorRule {
    /// Which errors it is for; absent: all.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// Try again this often before `then`.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// What to do in the end; absent: a record becomes a dead letter, a connection stops the pipeline.
    #[serde(default)]
    pub then: Option<Then>,
}

/// Which errors a rule is for; all that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Class of the error.
    #[serde(default)]
    pub class: Option<Class>,
    /// Code of the error, as `millstream list errors` prints them.
    #[serde(default)]
    pub code: Option<String>,
    /// A regular expression that is found in the message or one of its causes.
    #[serde(default)]
    pub message: Option<String>,
}

/// How often and when to try again.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often; absent: for ever.
    pub attempts: Option<u32>,
    /// Before the first of them.
    pub delay: Span,
    /// Each further wait is this many times the one before.
    pub backoff: f64,
    /// Waits vary at random by this share, so that many do not come back at once.
    pub jitter: f64,
    /// No wait is longer.
    pub delay_max: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: None,
            delay: Span(Duration::from_secs(1)),
            backoff: 2.0,
            jitter: 0.2,
            delay_max: Span(Duration::from_secs(30)),
        }
    }
}

/// What to do with a record or connection that failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Keep the record with its cause among the dead letters.
    DeadLetter,
    /// Count the record and forget it.
    Drop,
    /// Stop the pipeline with the cause.
    Stop,
    /// Restart the pipeline from its last checkpoint.
    Restart,
}

impl ErrorRule {
    /// A rule for errors of a [`Class`] or an [`ErrorKind`]. Without more said, a record becomes a dead letter, a connection
    /// stops the pipeline.
    ///
    /// ```
    /// use std::time::Duration;
    /// use millstream_core::{Class, ErrorKind};
    /// use millstream_runtime::{ErrorRule, Retry, Then};
    ///
    /// ErrorRule::of(Class::Unavailable).retry(Retry::times(5).delay(Duration::from_millis(200)));
    /// ErrorRule::of(ErrorKind::Decode).then(Then::Drop);
    /// ErrorRule::any().saying("deadlock|try again").retry(Retry::times(3));
    /// ```
    pub fn of(errors: impl Into<Match>) -> Self {
        ErrorRule { matches: errors.into(), ..ErrorRule::default() }
    }

    /// A rule for all errors.
    pub fn any() -> Self {
        ErrorRule::default()
    }

    /// Only errors in whose message, or one of its causes, this regular expression is found.
    #[must_use]
    pub fn saying(mut self, regex: impl Into<String>) -> Self {
        self.matches.message = Some(regex.into());
        self
    }

    /// Tries again, before what [`then`](ErrorRule::then) says.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// What to do in the end.
    #[must_use]
    pub fn then(mut self, then: Then) -> Self {
        self.then = Some(then);
        self
    }
}

impl From<Class> for Match {
    fn from(class: Class) -> Self {
        Match { class: Some(class), ..Match::default() }
    }
}

impl From<ErrorKind> for Match {
    fn from(kind: ErrorKind) -> Self {
        Match { code: Some(kind.facts().code.to_owned()), ..Match::default() }
    }
}

/// What a rule says about one failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this time.
    Retry(Duration),
    /// Do this.
    Then(Then),
}

/// Rules of one stage, compiled: its own, then the pipeline's, then the built-in ones.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<(ErrorRule, Option<Regex>)>);

impl Rules {
    /// Stands for the number of attempts where another one cannot help.
    pub const NO_RETRY: u32 = u32::MAX;

    /// Compiles rules; an error names the one that is wrong by its position.
    pub fn compile(rules: impl IntoIterator<Item = ErrorRule>) -> Result<Self> {
        let mut compiled = Vec::new();
        for (i, rule) in rules.into_iter().enumerate() {
            let wrong = |key: &str, error: Error| Err(error.within(key).within("match").within(i.to_string()));
            if let Some(code) = &rule.matches.code {
                let codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.facts().code).collect();
                if !codes.contains(&code.as_str()) {
                    let error = Error::new(ErrorKind::Option, format!("there is no error code `{code}`"));
                    let hint = millstream_core::suggest(code, &codes).unwrap_or_default();
                    return wrong("code", error.hint(hint));
                }
            }
            let message = match rule.matches.message.as_deref().map(Regex::new).transpose() {
                Ok(message) => message,
                Err(cause) => {
                    let error = Error::new(ErrorKind::Option, "the regular expression cannot be read").caused_by(cause);
                    return wrong("message", error);
                }
            };
            if rule
                .retry
                .as_ref()
                .is_some_and(|retry| !(1.0..=1e9).contains(&retry.backoff) || !(0.0..=1.0).contains(&retry.jitter))
            {
                let error = Error::new(ErrorKind::Option, "`backoff` must be at least 1, `jitter` between 0 and 1");
                return Err(error.within("retry").within(i.to_string()));
            }
            compiled.push((rule, message));
        }
        Ok(Rules(compiled))
    }

    /// What becomes of a record that has failed `attempts` times (at least 1) with `error` at last.
    pub fn record(&self, error: &Error, attempts: u32, dice: f64) -> Verdict {
        self.decide(error, attempts, dice, Then::DeadLetter)
    }

    /// What becomes of a connection that has failed `attempts` times (at least 1) in a row.
    pub fn connection(&self, error: &Error, attempts: u32, dice: f64) -> Verdict {
        self.decide(error, attempts, dice, Then::Stop)
    }

    /// `dice` is a random number from 0 to 1; the caller's, so that tests can repeat.
    fn decide(&self, error: &Error, attempts: u32, dice: f64, fallback: Then) -> Verdict {
        let found = self.0.iter().find(|(rule, message)| fits(&rule.matches, message.as_ref(), error));
        let (retry, then) = match found {
            Some((rule, _)) => (rule.retry.clone(), rule.then),
            None => built_in(error, fallback),
        };
        match retry {
            Some(retry) if attempts != Self::NO_RETRY && retry.attempts.is_none_or(|most| attempts <= most) => {
                Verdict::Retry(retry.wait(attempts, dice))
            }
            _ => Verdict::Then(then.unwrap_or(fallback)),
        }
    }
}

fn fits(matches: &Match, message: Option<&Regex>, error: &Error) -> bool {
    let facts = error.facts();
    matches.class.is_none_or(|class| class == facts.class)
        && matches.code.as_deref().is_none_or(|code| code == facts.code)
        && message.is_none_or(|message| message.is_match(&error.chain()))
}

/// Data at fault goes to the dead letters; what a system cannot do now is tried for ever; all else stops.
fn built_in(error: &Error, fallback: Then) -> (Option<Retry>, Option<Then>) {
    match error.facts().class {
        Class::Data | Class::Rejected => (None, Some(fallback)),
        Class::Timeout if fallback == Then::DeadLetter => (None, Some(fallback)),
        Class::Unavailable | Class::Throttled | Class::Timeout => (Some(Retry::default()), None),
        Class::Configuration | Class::Permission | Class::Bug => (None, Some(Then::Stop)),
    }
}

impl Retry {
    /// So many times: after 1 s at first, and then after twice the time each, up to 30 s, if nothing else is said.
    pub fn times(attempts: u32) -> Self {
        Retry { attempts: Some(attempts), ..Retry::default() }
    }

    /// The same for ever.
    pub fn forever() -> Self {
        Retry::default()
    }

    /// The wait before the first of them.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Retry { delay: Span(delay), ..self }
    }

    /// Each further wait is this many times the one before; 1 for waits that stay the same. At least 1.
    #[must_use]
    pub fn backoff(self, backoff: f64) -> Self {
        Retry { backoff, ..self }
    }

    /// Waits vary at random by this share, from 0 to 1 (0.2 if not said).
    #[must_use]
    pub fn jitter(self, jitter: f64) -> Self {
        Retry { jitter, ..self }
    }

    /// No wait is longer.
    #[must_use]
    pub fn delay_max(self, delay_max: Duration) -> Self {
        Retry { delay_max: Span(delay_max), ..self }
    }

    /// The wait before attempt `attempt` (1 is the first retry).
    pub fn wait(&self, attempt: u32, dice: f64) -> Duration {
        let grown = self.delay.0.as_secs_f64() * self.backoff.powi(attempt.saturating_sub(1).min(1000) as i32);
        let capped = grown.min(self.delay_max.0.as_secs_f64().max(self.delay.0.as_secs_f64()));
        Duration::try_from_secs_f64(capped * (1.0 + self.jitter * (2.0 * dice - 1.0))).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(yaml: serde_json::Value) -> Rules {
        Rules::compile(millstream_core::parse_options::<Vec<ErrorRule>>(&yaml).unwrap()).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules(serde_json::json!([
            {"match": {"class": "timeout"}, "retry": {"attempts": 2, "delay": "10ms", "jitter": 0}, "then": "drop"},
            {"match": {"code": "E_DECODE", "message": "EOF"}, "then": "stop"},
        ]));
        let timeout = Error::new(ErrorKind::Timeout, "too slow");
        assert_eq!(rules.record(&timeout, 1, 0.5), Verdict::Retry(Duration::from_millis(10)));
        assert_eq!(rules.record(&timeout, 2, 0.5), Verdict::Retry(Duration::from_millis(20)));
        assert_eq!(rules.record(&timeout, 3, 0.5), Verdict::Then(Then::Drop));
        let eof = Error::new(ErrorKind::Decode, "cannot read JSON")
            .caused_by(Error::new(ErrorKind::Decode, "EOF while parsing"));
        assert_eq!(rules.record(&eof, 1, 0.5), Verdict::Then(Then::Stop));
    }

    #[test]
    fn built_in_rules_follow_the_class() {
        let rules = Rules::default();
        let verdict = |kind| rules.record(&Error::new(kind, "x"), 1, 0.5);
        assert_eq!(verdict(ErrorKind::Panic), Verdict::Then(Then::DeadLetter));
        assert_eq!(verdict(ErrorKind::Rejected), Verdict::Then(Then::DeadLetter));
        assert_eq!(verdict(ErrorKind::Timeout), Verdict::Then(Then::DeadLetter));
        assert!(matches!(verdict(ErrorKind::Unavailable), Verdict::Retry(_)));
        assert_eq!(verdict(ErrorKind::Bug), Verdict::Then(Then::Stop));
        let connection = rules.connection(&Error::new(ErrorKind::Timeout, "x"), 1, 0.5);
        assert!(matches!(connection, Verdict::Retry(_)));
    }

    #[test]
    fn rules_made_by_calls_are_those_of_files() {
        let of_file = |yaml| millstream_core::parse_options::<ErrorRule>(&yaml).unwrap();
        let retry = Retry::times(5).delay(Duration::from_millis(5)).backoff(3.0).jitter(0.5);
        let called = ErrorRule::of(Class::Unavailable).retry(retry.delay_max(Duration::from_secs(9))).then(Then::Drop);
        let retry = serde_json::json!({"attempts": 5, "delay": "5ms", "backoff": 3, "jitter": 0.5, "delay_max": "9s"});
        let written = serde_json::json!({"match": {"class": "unavailable"}, "retry": retry, "then": "drop"});
        assert_eq!(called, of_file(written));
        let written = serde_json::json!({"match": {"code": "E_REJECTED", "message": "^no"}});
        assert_eq!(ErrorRule::of(ErrorKind::Rejected).saying("^no"), of_file(written));
        assert_eq!(ErrorRule::any().retry(Retry::forever()), of_file(serde_json::json!({"retry": {}})));
    }

    #[test]
    fn unknown_codes_are_refused() {
        let rule = serde_json::json!([{"match": {"code": "E_DECOD"}}]);
        let error = Rules::compile(millstream_core::parse_options::<Vec<ErrorRule>>(&rule).unwrap()).unwrap_err();
        assert_eq!(error.hint_text(), Some("did you mean `E_DECODE`?"));
        assert_eq!(error.place().unwrap().path, ["0", "match", "code"]);
    }
}
