//! Resource quantities: `100m`, `1.5Gi`, `2e3`.

use std::fmt;

/// An exact quantity, with the suffix family in which it prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    BinarySi,
    DecimalSi,
    DecimalExponent,
}

/// Not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

impl Quantity {
    pub fn parse(_text: &str) -> Result<Quantity, ParseError> {
        let _ = (Format::BinarySi, Format::DecimalSi, Format::DecimalExponent);
        todo!()
    }
    /// Thousandths, rounded up as upstream's `MilliValue`.
    pub fn milli(&self) -> i128 {
        todo!()
    }
    /// Whole units, rounded up as upstream's `Value`.
    pub fn value(&self) -> i128 {
        todo!()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = (self.nano, self.format);
        todo!()
    }
}
