//! Admission, queue, batches, devices, answer memo.
