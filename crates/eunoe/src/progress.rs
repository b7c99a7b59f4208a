//! Bars on standard error: drawn on a terminal only, gone when the work is done or given up.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// A bar over `total` of `unit`.
pub(crate) fn bar(what: &'static str, total: u64, unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {unit} {{eta}}"));
    // The template is a constant; a bar in the default style is as good as an error is bad.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(what).with_finish(ProgressFinish::AndClear)
}
