//! Checks a claim without trusting whoever made it.
