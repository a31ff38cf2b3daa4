//! The time a call has.
//!
//! When `grpc-timeout` lapses, tonic answers `CANCELLED` "Timeout expired". So every handler races its work against
//! a deadline two milliseconds earlier and answers `DEADLINE_EXCEEDED` itself.

use std::{future::Future, time::Duration};

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::status::{Code, Error};

/// How much earlier than tonic this program answers.
const AHEAD: Duration = Duration::from_millis(2);

/// When a call has to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
}

impl Deadline {
    /// The earlier of the caller's own deadline and `longest` from now.
    pub(crate) fn of(metadata: &MetadataMap, longest: Duration) -> Self {
        let latest = Self::after(longest);
        Self::own(metadata).map_or(latest, |own| Self { at: own.at.min(latest.at) })
    }

    /// The caller's own deadline, if it named one.
    pub(crate) fn own(metadata: &MetadataMap) -> Option<Self> {
        let own = metadata.get("grpc-timeout").and_then(|value| timeout(value.as_bytes()))?;
        Instant::now().checked_add(own.saturating_sub(AHEAD)).map(|at| Self { at })
    }

    /// `longest` from now, for surfaces whose callers cannot name a deadline.
    pub(crate) fn after(longest: Duration) -> Self {
        Self { at: Instant::now() + longest }
    }

    /// Time left; zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The answer of `work`, or `deadline`; `work` is dropped then.
    pub(crate) async fn race<T>(
        self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout_at(self.at, work).await.unwrap_or_else(|_| Err(passed()))
    }
}

/// The error of a call whose time is over.
pub(crate) fn passed() -> Error {
    Error::new(Code::Deadline, "the deadline passed before the answer was there")
}

/// Waits for a deadline; for ever where there is none.
pub(crate) async fn passes(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.at).await,
        None => std::future::pending().await,
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol: at most eight digits and one of `H M S m u n`.
fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let cases = [
            ("20m", Some(Duration::from_millis(20))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-1S", None),
            ("1s", None),
        ];
        for (text, want) in cases {
            assert_eq!(timeout(text.as_bytes()), want, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_hears_two_milliseconds_before_its_time_is_over() {
        let start = Instant::now();
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "20m".parse().unwrap());
        let deadline = Deadline::of(&metadata, Duration::from_secs(60));
        let never = std::future::pending::<Result<(), Error>>();
        let error = deadline.race(never).await.unwrap_err();
        assert_eq!(error.code(), Code::Deadline);
        assert_eq!(start.elapsed(), Duration::from_millis(18));
    }
}
