//! The time a call has.
//!
//! When `grpc-timeout` lapses, tonic answers `CANCELLED` "Timeout expired". So every handler races its work against
//! a deadline two milliseconds earlier and answers `DEADLINE_EXCEEDED` itself. Both clocks have to start together, so
//! [`Arrivals`] notes when a call came, before anything waits for a thread; and it answers in the handler's place, one
//! millisecond early, where the time was over before the message had arrived.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http;
use tokio::time::Instant;
use tonic::{Request, Status, codegen::Service, metadata::MetadataMap};

use crate::status::{Code, Error};

/// How much earlier than tonic a handler answers.
const AHEAD: Duration = Duration::from_millis(2);
/// How much earlier than tonic [`Arrivals`] answers.
const LAST: Duration = Duration::from_millis(1);

/// When a call has to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
}

impl Deadline {
    /// The earlier of the caller's own deadline and `longest` after the call came.
    pub(crate) fn of<T>(request: &Request<T>, longest: Duration) -> Self {
        let latest = Self { at: arrival(request) + longest };
        Self::own(request).map_or(latest, |own| Self { at: own.at.min(latest.at) })
    }

    /// The caller's own deadline, if it named one.
    pub(crate) fn own<T>(request: &Request<T>) -> Option<Self> {
        let own = timeout_of(request.metadata())?.saturating_sub(AHEAD);
        arrival(request).checked_add(own).map(|at| Self { at })
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

/// When a call came in.
#[derive(Clone, Copy, Debug)]
struct Arrival(Instant);

fn arrival<T>(request: &Request<T>) -> Instant {
    request.extensions().get::<Arrival>().map_or_else(Instant::now, |arrival| arrival.0)
}

/// A service that notes when each call comes in, and answers it when its time is over.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals<S>(pub(crate) S);

type Answer<R, E> = Pin<Box<dyn Future<Output = Result<http::Response<R>, E>> + Send>>;

impl<S, B, R> Service<http::Request<B>> for Arrivals<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let now = Instant::now();
        let own = request.headers().get("grpc-timeout").and_then(|text| timeout(text.as_bytes()));
        let last = own.and_then(|own| now.checked_add(own.saturating_sub(LAST)));
        request.extensions_mut().insert(Arrival(now));
        let answer = self.0.call(request);
        match last {
            None => Box::pin(answer),
            Some(last) => Box::pin(async move {
                let late = |_| Ok(Status::from(passed()).into_http());
                tokio::time::timeout_at(last, answer).await.unwrap_or_else(late)
            }),
        }
    }
}

fn timeout_of(metadata: &MetadataMap) -> Option<Duration> {
    timeout(metadata.get("grpc-timeout")?.as_bytes())
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
    async fn a_call_whose_message_never_comes_is_answered_all_the_same() {
        let start = Instant::now();
        let mut stuck = Arrivals(Stuck);
        let request = http::Request::builder().header("grpc-timeout", "20m").body(()).unwrap();
        let answer = stuck.call(request).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_millis(19));
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }

    struct Stuck;

    impl Service<http::Request<()>> for Stuck {
        type Response = http::Response<String>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_hears_two_milliseconds_before_its_time_is_over() {
        let start = Instant::now();
        let mut request = Request::new(());
        request.metadata_mut().insert("grpc-timeout", "20m".parse().unwrap());
        request.extensions_mut().insert(Arrival(start));
        tokio::time::advance(Duration::from_millis(5)).await;
        let deadline = Deadline::of(&request, Duration::from_secs(60));
        let never = std::future::pending::<Result<(), Error>>();
        let error = deadline.race(never).await.unwrap_err();
        assert_eq!(error.code(), Code::Deadline);
        assert_eq!(start.elapsed(), Duration::from_millis(18));
    }
}
