//! Which instruction set the kernels use on this processor, decided once.

/// An instruction set that the kernels are written for. All give the same bits.
///
/// Only this crate makes the vector variants, after it asked the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the reference.
    Scalar,
    /// AVX2, FMA and F16C.
    #[non_exhaustive]
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI (and F16C).
    #[non_exhaustive]
    Avx512,
    /// AVX-512 as above, and BF16.
    #[non_exhaustive]
    Avx512Bf16,
}

impl Isa {
    /// The best one that this processor has, or the one that `EUNOE_ISA` (`scalar`, `avx2`, `avx512`,
    /// `avx512bf16`) asks for where the processor has it.
    pub fn detect() -> Self {
        let best = Self::best();
        match std::env::var("EUNOE_ISA").as_deref() {
            Ok("scalar") => Self::Scalar,
            Ok("avx2") => best.min(Self::Avx2),
            Ok("avx512") => best.min(Self::Avx512),
            _ => best,
        }
    }

    /// Every set that this processor has, the reference first.
    pub fn available() -> Vec<Self> {
        let all = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Avx512Bf16];
        all.into_iter().filter(|isa| *isa <= Self::best()).collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512, avx512 && is_x86_feature_detected!("avx512bf16")) {
            (_, _, true) => Self::Avx512Bf16,
            (_, true, _) => Self::Avx512,
            (true, ..) => Self::Avx2,
            _ => Self::Scalar,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Scalar
    }
}

impl Isa {
    /// Runs `body` compiled for this instruction set, where the compiler inlines it (mark it `#[inline(always)]`):
    /// plain loops over arrays, written once, become vector code.
    #[inline]
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        match self {
            // SAFETY: vector variants are only made where the processor has their features.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Bf16 => unsafe { with_avx512(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { with_avx2(body) },
            _ => body(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}
