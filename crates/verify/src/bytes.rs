use hyperion_primitives::{Address, B256};

/// Walks an encoding whose length was checked before the first field is taken.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `N` bytes; the caller has checked that they are there.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().expect("the length was checked at the start");
        self.0 = rest;
        *head
    }

    /// The next `len` bytes; the caller has checked that they are there.
    pub(crate) fn slice(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len);
        self.0 = rest;
        head
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    pub(crate) fn b256(&mut self) -> B256 {
        B256::new(self.array())
    }

    pub(crate) fn address(&mut self) -> Address {
        Address::new(self.array())
    }
}

/// Fills a buffer of known size from the front.
pub(crate) struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    pub(crate) const fn new(out: &'a mut [u8]) -> Self {
        Self(out)
    }

    /// Appends bytes and returns itself, so that a layout reads as one chain.
    pub(crate) fn put(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let (head, rest) = core::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = rest;
        self
    }

    /// Ends an encoding that filled its buffer.
    pub(crate) fn done(&self) {
        assert!(self.0.is_empty(), "the fields add up to the encoding's length");
    }
}
