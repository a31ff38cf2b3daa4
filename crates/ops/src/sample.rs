//! Draws a token from logits.

/// How a token is drawn; [`new`](Self::new) checks the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sampling {
    /// Temperature in Q16: 0 takes the largest logit, else 656 (0.01) to 6,553,600 (100).
    pub temperature_q16: u32,
    /// Tokens kept by rank; 0: all.
    pub top_k: u32,
    /// Share of the weight kept, Q16, 1 to 65,536.
    pub top_p_q16: u32,
    /// Taken off a logit per earlier occurrence of its token, Q16, magnitude `2^21` at most.
    pub frequency_q16: i32,
    /// Taken off a logit once its token has occurred, Q16, magnitude `2^21` at most.
    pub presence_q16: i32,
}

impl Sampling {
    /// Takes the largest logit.
    pub const GREEDY: Self =
        Self { temperature_q16: 0, top_k: 0, top_p_q16: 65_536, frequency_q16: 0, presence_q16: 0 };

    /// `None` when a number is outside its range.
    pub fn new(
        temperature_q16: u32,
        top_k: u32,
        top_p_q16: u32,
        frequency_q16: i32,
        presence_q16: i32,
    ) -> Option<Self> {
        let warm = temperature_q16 == 0 || (656..=6_553_600).contains(&temperature_q16);
        let share = (1..=65_536).contains(&top_p_q16);
        let small = |penalty: i32| penalty.unsigned_abs() <= 1 << 21;
        (warm && share && small(frequency_q16) && small(presence_q16)).then_some(Self {
            temperature_q16,
            top_k,
            top_p_q16,
            frequency_q16,
            presence_q16,
        })
    }
}
