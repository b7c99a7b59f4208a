//! Small SVG charts of classes and variables, so that the style sheet gives them their colours in light, dark
//! and print. Plotting crates write fixed colours.

mod heat;
mod labels;
mod mark;
mod plot;
mod scale;
mod whisker;

pub(crate) use heat::{Cell, Heat, grid, scale};
pub use mark::{Look, key};
pub use plot::{Curve, Form, Plot, Point};
pub use scale::{Axis, Kind};
pub(crate) use whisker::whisker;

use std::fmt::Write;

/// Text as it may stand between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate with at most one decimal; 0 for what is no number.
fn at(value: f64) -> String {
    let rounded = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    // Adding 0 turns -0 into 0.
    format!("{}", rounded + 0.0)
}

/// An SVG under construction.
struct Canvas {
    body: String,
    width: f64,
    height: f64,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    /// Adds what is already SVG.
    fn push(&mut self, part: &str) {
        self.body.push_str(part);
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let (x, y, u, v) = (at(from.0), at(from.1), at(to.0), at(to.1));
        let _ = write!(self.body, "<path class=\"{class}\" d=\"M{x} {y}L{u} {v}\"/>");
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let (x, y, text) = (at(x), at(y), escape(text));
        let _ = write!(self.body, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\"{anchor}>{text}</text>");
    }

    /// The finished picture; `name` says to those who cannot see it what it shows.
    fn finish(self, name: &str) -> String {
        let (w, h, name) = (at(self.width), at(self.height), escape(name));
        format!(
            "<svg class=\"chart\" role=\"img\" aria-label=\"{name}\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" \
             height=\"{h}\">{}</svg>",
            self.body
        )
    }
}

/// A text that is too long without its middle: names are told apart by how they end too.
fn short(text: &str, chars: usize) -> String {
    if text.chars().count() <= chars {
        return text.to_string();
    }
    let kept = chars.saturating_sub(1);
    let (head, tail) = (kept - kept / 3, text.chars().count() - kept / 3);
    text.chars().take(head).chain(['…']).chain(text.chars().skip(tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_have_one_decimal_and_are_numbers() {
        assert_eq!(
            [at(1.26), at(2.0), at(-0.01), at(f64::NAN), at(f64::INFINITY)],
            ["1.3", "2", "0", "0", "0"]
        );
    }

    #[test]
    fn text_cannot_leave_its_place() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.text("t", (0.0, 0.0), Anchor::Start, "</script><img onerror='x'>");
        let svg = canvas.finish("\"><b>");
        assert!(svg.contains("&lt;/script&gt;&lt;img onerror=&#39;x&#39;&gt;"));
        assert!(svg.contains("aria-label=\"&quot;&gt;&lt;b&gt;\""));
    }

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!([short("abcd", 4), short("abcdef", 4), short("äöüß€", 3)], ["abcd", "ab…f", "äö…"]);
    }
}
