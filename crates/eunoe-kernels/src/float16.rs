//! 16-bit floats in plain integer arithmetic, which vectorises (the `half` crate asks the processor at each call).

/// The f32 that the f16 with these bits stands for, exactly.
#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    /// 2^112: moves the exponent bias from 15 to 127; subnormals become normal on the way.
    const REBIAS: f32 = f32::from_bits(0x7780_0000);
    let magnitude = u32::from(bits & 0x7FFF);
    let value = (f32::from_bits(magnitude << 13) * REBIAS).to_bits();
    let special = if magnitude >= 0x7C00 { 0xFF << 23 } else { 0 };
    f32::from_bits(value | special | u32::from(bits & 0x8000) << 16)
}

/// `x`, or 0 where it is closer to 0 than `least`.
#[inline(always)]
pub(crate) fn flush(x: f32, least: f32) -> f32 {
    if x.abs() < least { 0.0 } else { x }
}

/// The nearest bf16, ties to even, in the low half.
#[inline(always)]
pub(crate) fn nearest_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// The low bf16 of a pair.
#[inline(always)]
pub(crate) fn even(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// The high bf16 of a pair.
#[inline(always)]
pub(crate) fn odd(pair: u32) -> f32 {
    f32::from_bits(pair & 0xFFFF_0000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_f16_converts_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (super::f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#06x}");
        }
    }
}
