//! The fields of a frame's body, one after the other.

use super::bounded::Bytes;
use super::frame::{Malformed, Type};

/// Reads a body from its start.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    kind: Type,
    length: usize,
}

impl<'a> Reader<'a> {
    /// The body of a frame of this type.
    pub(super) fn of(kind: Type, body: &'a [u8]) -> Self {
        Self { rest: body, kind, length: body.len() }
    }

    /// That the body has a wrong length.
    pub(super) fn fault(&self) -> Malformed {
        Malformed::Length { kind: self.kind, length: u32::try_from(self.length).unwrap_or(u32::MAX) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.fault())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// An offset that has one behind it.
    pub(super) fn countable(&mut self) -> Result<u64, Malformed> {
        let offset = self.u64()?;
        if offset == u64::MAX { Err(Malformed::Offset(offset)) } else { Ok(offset) }
    }

    /// All that is left.
    pub(super) fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn bytes<const MOST: usize>(&mut self) -> Result<Bytes<'a, MOST>, Malformed> {
        let fault = self.fault();
        Bytes::new(self.all()).ok_or(fault)
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.fault()) }
    }
}
