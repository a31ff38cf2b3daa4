//! Who is calling, and how much they may ask for.
//!
//! A key file lists SHA-256 digests of random secrets; a token is `hyp.<id>.<base64url of 32 bytes>` and comes as
//! `authorization: Bearer …` over gRPC and HTTP alike. [`Gate::admit`] is the one question; it answers with a
//! [`Caller`] whose life is the call's.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use governor::{
    Quota, RateLimiter,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use hyperion_engine::Clock;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::status::{Code, Error};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Inference, blobs, quotes.
    Infer,
    /// Audits of claims.
    Audit,
    /// Attaching a worker.
    Worker,
    /// Loading and unloading models; implies the others.
    Admin,
}

/// A part of the surface that may be open to callers without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// Checkpoints, proofs, entries, tiles.
    Log,
    /// Claims and receipts by digest.
    Receipts,
    /// Models, their metadata and statistics.
    Models,
    /// Inference, blobs, quotes.
    Infer,
    /// Attaching a worker; never anonymous where there is a key file.
    Worker,
    /// Loading and unloading models; never anonymous.
    Admin,
}

/// Why a key file was refused; the set in use stays.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file could not be read.
    #[error("reading {path}: {cause}")]
    Read {
        /// Where it should be.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The text is not TOML of the documented form.
    #[error("the key file is not of the documented form: {0}")]
    Form(#[from] toml::de::Error),
    /// One key is wrong.
    #[error("key `{id}`: {why}")]
    Key {
        /// Its id as written.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A parsed key file.
#[derive(Debug, Default)]
pub struct Keys(BTreeMap<String, Key>);

impl Keys {
    /// Reads and parses a key file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or a key in it is not of the documented form.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| KeysError::Read { path: path.display().to_string(), cause })?;
        Self::parse(&text)
    }

    /// Parses the text of a key file.
    ///
    /// # Errors
    ///
    /// When a key is unknown to the form, doubled, or has a field out of range.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let file: KeyFile = toml::from_str(text)?;
        let mut keys = BTreeMap::new();
        for terms in file.key {
            let id = terms.id.clone();
            let key = Key::new(terms).map_err(|why| KeysError::Key { id: id.clone(), why })?;
            if keys.insert(id.clone(), key).is_some() {
                return Err(KeysError::Key { id, why: "is listed twice" });
            }
        }
        Ok(Self(keys))
    }

    /// Keys in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody can authenticate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    #[serde(default)]
    key: Vec<Terms>,
}

/// One `[[key]]` as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    id: String,
    sha256: String,
    scopes: Vec<Scope>,
    requests_per_s: NonZeroU32,
    jobs_max: u32,
    expires: Option<toml::value::Datetime>,
}

/// A key as parsed.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    terms: Terms,
    digest: [u8; 32],
    expires_s: Option<u64>,
}

impl Key {
    fn new(terms: Terms) -> Result<Self, &'static str> {
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&terms.id.len()) || !terms.id.bytes().all(letters) {
            return Err("the id is 1 to 32 of a-z, 0-9 and -");
        }
        let mut digest = [0; 32];
        hex::decode_to_slice(&terms.sha256, &mut digest)
            .map_err(|_| "sha256 is 64 hex digits, the digest of the 32 secret bytes")?;
        let expires_s = match &terms.expires {
            None => None,
            Some(at) => Some(unix_s(at).ok_or("expires is a date, a time and an offset")?),
        };
        Ok(Self { terms, digest, expires_s })
    }

    fn allows(&self, area: Area) -> bool {
        let scopes = &self.terms.scopes;
        match area {
            Area::Log | Area::Receipts | Area::Models => true,
            Area::Infer => scopes.contains(&Scope::Infer) || scopes.contains(&Scope::Admin),
            Area::Worker => scopes.contains(&Scope::Worker) || scopes.contains(&Scope::Admin),
            Area::Admin => scopes.contains(&Scope::Admin),
        }
    }
}

/// Seconds since 1970 of a date with time and offset; `None` without them or before 1970.
fn unix_s(at: &toml::value::Datetime) -> Option<u64> {
    let (date, time, offset) = (at.date?, at.time?, at.offset?);
    let minutes = match offset {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days from 1970-01-01 in the proleptic Gregorian calendar, years beginning in March.
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    let clock = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second);
    u64::try_from(days * 86_400 + clock - minutes * 60).ok()
}

/// The engine's clock in the form that the rate limiter reads.
#[derive(Clone)]
struct Ticks(Arc<dyn Clock>);

impl governor::clock::Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(Duration::from_micros(self.0.now_us()))
    }
}

/// A key in use, with what it has used.
struct Account {
    key: Key,
    rate: RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Nanos>>,
    jobs: AtomicU32,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("id", &self.key.terms.id).field("jobs", &self.jobs).finish()
    }
}

/// Decides who may call what.
pub struct Gate {
    /// `None`: no key file is configured and everybody may do everything but administer.
    accounts: Option<RwLock<BTreeMap<String, Arc<Account>>>>,
    anonymous: Vec<Area>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    /// A gate without keys: every area but [`Area::Admin`] is open.
    pub fn open(clock: Arc<dyn Clock>) -> Self {
        Self { accounts: None, anonymous: Vec::new(), clock }
    }

    /// A gate that asks for one of `keys` everywhere except in the areas of `anonymous`.
    pub fn keyed(keys: Keys, anonymous: Vec<Area>, clock: Arc<dyn Clock>) -> Self {
        let gate = Self { accounts: Some(RwLock::default()), anonymous, clock };
        gate.replace(keys);
        gate
    }

    /// Puts another key file in place. A key whose line did not change keeps its rate and its jobs in flight.
    /// On an [`open`](Self::open) gate nothing changes.
    pub fn replace(&self, keys: Keys) {
        let Some(accounts) = &self.accounts else { return };
        let mut accounts = accounts.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *accounts);
        *accounts = keys
            .0
            .into_iter()
            .map(|(id, key)| {
                let account = match before.get(&id) {
                    Some(account) if account.key == key => Arc::clone(account),
                    _ => {
                        let quota = Quota::per_second(key.terms.requests_per_s);
                        let rate =
                            RateLimiter::direct_with_clock(quota, Ticks(Arc::clone(&self.clock)));
                        Arc::new(Account { key, rate, jobs: AtomicU32::new(0) })
                    }
                };
                (id, account)
            })
            .collect();
    }

    /// Lets a call in, or says why not. `header` is the value of `authorization`, if there is one.
    ///
    /// # Errors
    ///
    /// `unauthenticated` without a needed key or with a wrong one, `forbidden` without the scope, `rate_limited`
    /// with the delay when the key's rate is used up.
    pub fn admit(&self, header: Option<&[u8]>, area: Area) -> Result<Caller, Error> {
        let Some(accounts) = &self.accounts else {
            if area == Area::Admin {
                return Err(Error::new(
                    Code::Forbidden,
                    "administration needs a key with scope `admin`; no key file is configured",
                ));
            }
            return Ok(Caller(None));
        };
        let Some(header) = header else {
            if !matches!(area, Area::Admin | Area::Worker) && self.anonymous.contains(&area) {
                return Ok(Caller(None));
            }
            return Err(unauthenticated("send `authorization: Bearer hyp.<id>.<secret>`"));
        };
        let (id, secret) = token(header)
            .ok_or_else(|| unauthenticated("the token is not of the form hyp.<id>.<secret>"))?;
        let account = accounts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
            .ok_or_else(|| unauthenticated("this key is unknown"))?;
        let digest = hyperion_primitives::sha256(secret);
        if !bool::from(digest.as_slice().ct_eq(&account.key.digest)) {
            return Err(unauthenticated("this key is unknown"));
        }
        if account.key.expires_s.is_some_and(|at| self.clock.unix_s() >= at) {
            return Err(unauthenticated("this key has expired"));
        }
        if !account.key.allows(area) {
            return Err(Error::new(
                Code::Forbidden,
                format!("key `{id}` has not the scope that this call needs"),
            ));
        }
        if let Err(early) = account.rate.check() {
            let now = governor::clock::Clock::now(&Ticks(Arc::clone(&self.clock)));
            let delay = early.wait_time_from(now);
            let rate = account.key.terms.requests_per_s;
            let text = format!("key `{id}` may make {rate} requests a second");
            return Err(Error::new(Code::RateLimited, text).retry_after(delay));
        }
        Ok(Caller(Some(account)))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("accounts", &self.accounts)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

fn unauthenticated(why: &'static str) -> Error {
    Error::new(Code::Unauthenticated, why)
}

/// Id and secret bytes of an `authorization` value.
fn token(header: &[u8]) -> Option<(&str, [u8; 32])> {
    let text = std::str::from_utf8(header).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (id, secret) = token.trim().strip_prefix("hyp.")?.split_once('.')?;
    let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
    Some((id, secret.try_into().ok()?))
}

/// Whoever made the call being served.
#[derive(Clone, Debug)]
pub struct Caller(Option<Arc<Account>>);

impl Caller {
    /// The key's id; `None` for a caller without a key.
    pub fn key_id(&self) -> Option<&str> {
        self.0.as_ref().map(|account| account.key.terms.id.as_str())
    }

    /// Takes one of the key's places for work in flight, until the [`Place`] is dropped.
    ///
    /// # Errors
    ///
    /// `rate_limited` when `jobs_max` of the key are taken.
    pub fn take_place(&self) -> Result<Place, Error> {
        let Some(account) = &self.0 else { return Ok(Place(None)) };
        let max = account.key.terms.jobs_max;
        let taken = account.jobs.fetch_update(Ordering::AcqRel, Ordering::Acquire, |jobs| {
            (jobs < max).then_some(jobs + 1)
        });
        match taken {
            Ok(_) => Ok(Place(Some(Arc::clone(account)))),
            Err(_) => {
                let id = &account.key.terms.id;
                let text = format!("key `{id}` has its {max} jobs in flight");
                Err(Error::new(Code::RateLimited, text).retry_after(JOB_RETRY))
            }
        }
    }
}

/// When to come back if a key's jobs are all in flight: nobody can say when one ends, so soon and not at once.
const JOB_RETRY: Duration = Duration::from_millis(100);

/// One of a key's places for work in flight.
#[derive(Debug)]
pub struct Place(Option<Arc<Account>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(account) = &self.0 {
            account.jobs.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_becomes_unix_seconds() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2027-01-01T00:00:00Z", Some(1_798_761_600)),
            ("2027-01-01T01:30:00+01:30", Some(1_798_761_600)),
            ("1969-12-31T23:59:59Z", None),
            ("2027-01-01T00:00:00", None),
            ("2027-01-01", None),
        ];
        for (text, want) in cases {
            assert_eq!(unix_s(&text.parse().unwrap()), want, "{text}");
        }
    }

    #[test]
    fn a_token_has_one_form() {
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let good = format!("Bearer hyp.acme-1.{secret}");
        assert_eq!(token(good.as_bytes()), Some(("acme-1", [7; 32])));
        assert_eq!(token(format!("bearer hyp.a.{secret}").as_bytes()), Some(("a", [7; 32])));
        let bad = [
            "",
            "Bearer",
            "Bearer hyp.acme-1",
            "Basic hyp.acme-1.AAAA",
            "Bearer hyp.acme-1.AAAA",
            "Bearer hyp.acme-1.****",
        ];
        for text in bad {
            assert_eq!(token(text.as_bytes()), None, "{text}");
        }
        assert_eq!(token(&[0xff, 0xfe]), None);
    }

    #[test]
    fn a_key_file_says_which_key_is_wrong() {
        let line = |id: &str, rest: &str| {
            format!("[[key]]\nid = \"{id}\"\nscopes = [\"infer\"]\njobs_max = 1\n{rest}\n")
        };
        let sha = format!("sha256 = \"{}\"\n", "ab".repeat(32));
        let good = format!("requests_per_s = 5\n{sha}");
        assert_eq!(Keys::parse(&line("a", &good)).unwrap().len(), 1);
        assert!(Keys::parse("").unwrap().is_empty());
        let cases = [
            ("an id in capitals", line("Acme", &good), "key `Acme`: the id"),
            ("a short digest", line("a", "requests_per_s = 1\nsha256 = \"ab\""), "64 hex digits"),
            ("no rate", line("a", &sha), "requests_per_s"),
            ("a rate of zero", line("a", &format!("requests_per_s = 0\n{sha}")), "nonzero"),
            ("an unknown field", line("a", &format!("{good}rate = 1")), "rate"),
            ("twice", line("a", &good).repeat(2), "listed twice"),
            ("a local date", line("a", &format!("{good}expires = 2027-01-01")), "an offset"),
        ];
        for (name, text, want) in cases {
            let got = Keys::parse(&text).unwrap_err().to_string();
            assert!(got.contains(want), "{name}: {got}");
        }
    }
}
