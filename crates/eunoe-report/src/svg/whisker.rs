//! A value and its interval in one line of a table.

use super::{Axis, Canvas, Kind, Look};

/// Value, interval and a line at 1, over a range that all lines of the table share.
pub(crate) fn whisker(look: Look, value: f64, [low, high]: [f64; 2], range: [f64; 2]) -> String {
    let axis = Axis::new("", Kind::Share, range);
    let place = |value: f64| axis.place(value, 6.0, 144.0);
    let mut canvas = Canvas::new(150.0, 16.0);
    canvas.line("level", (place(1.0), 0.0), (place(1.0), 16.0));
    canvas.line(&format!("whisker {}", look.class()), (place(low), 8.0), (place(high), 8.0));
    canvas.push(&format!("<g class=\"{}\">{}</g>", look.class(), look.marker((place(value), 8.0), 1.0, "")));
    let percent = |value: f64| crate::units::percent(value);
    canvas.finish(&format!("{}, interval {} to {}", percent(value), percent(low), percent(high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whisker_spans_its_interval() {
        // 138 units over 0 to 1.2: 0.6 at 75, 0.3 at 40.5, 0.9 at 109.5, 1 at 121.
        let svg = whisker(Look::new(1), 0.6, [0.3, 0.9], [0.0, 1.2]);
        assert!(svg.contains("class=\"whisker c1\" d=\"M40.5 8L109.5 8\""), "{svg}");
        assert!(svg.contains("class=\"level\" d=\"M121 0L121 16\""), "{svg}");
        assert!(svg.contains("aria-label=\"60 %, interval 30 % to 90 %\""));
    }
}
