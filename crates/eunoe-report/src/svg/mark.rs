//! How a series looks: a colour, a shape, and whether the shape is hollow, so that no series is known by
//! colour alone.

use super::at;

const COLOURS: usize = 8;
const SHAPES: usize = 8;

/// The look of a method in every chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// None for full memory, which is drawn in the colour of the text.
    index: Option<usize>,
}

impl Look {
    /// Full memory.
    pub const FULL: Self = Self { index: None };

    /// The look of the method of that number.
    pub fn new(index: usize) -> Self {
        Self { index: Some(index) }
    }

    /// The class that gives the colour.
    pub fn class(self) -> String {
        self.index.map_or("cf".to_string(), |index| format!("c{}", index % COLOURS))
    }

    fn is_hollow(self) -> bool {
        self.index.is_some_and(|index| index / COLOURS % 2 == 1)
    }

    /// Shapes shift from one round of colours to the next, so 64 methods pass before a pair repeats.
    fn shape(self) -> usize {
        self.index.map_or(0, |index| (index + index / COLOURS * 3) % SHAPES)
    }

    /// The marker at a point; of size 1 it is about 8 wide.
    pub fn marker(self, (x, y): (f64, f64), size: f64, title: &str) -> String {
        let class = if self.is_hollow() { "mark hollow" } else { "mark" };
        let title =
            if title.is_empty() { String::new() } else { format!("<title>{}</title>", super::escape(title)) };
        format!("<path class=\"{class}\" d=\"{}\">{title}</path>", outline(self.shape(), size, x, y))
    }
}

/// The outline of a shape.
fn outline(shape: usize, size: f64, x: f64, y: f64) -> String {
    let polygon = |corners: &[(f64, f64)]| {
        let points: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{} {}", at(x + size * dx), at(y + size * dy))).collect();
        format!("M{}Z", points.join("L"))
    };
    match shape {
        0 => {
            let (r, d) = (at(4.0 * size), at(8.0 * size));
            format!("M{} {}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0Z", at(x - 4.0 * size), at(y))
        }
        1 => polygon(&[(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)]),
        2 => polygon(&[(0.0, -4.8), (4.6, 3.4), (-4.6, 3.4)]),
        3 => polygon(&[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)]),
        4 => polygon(&[(0.0, 4.8), (4.6, -3.4), (-4.6, -3.4)]),
        5 => {
            let (a, b) = (1.5, 4.8);
            polygon(&[
                (-a, -b),
                (a, -b),
                (a, -a),
                (b, -a),
                (b, a),
                (a, a),
                (a, b),
                (-a, b),
                (-a, a),
                (-b, a),
                (-b, -a),
                (-a, -a),
            ])
        }
        6 => polygon(&[(-2.4, -4.4), (2.4, -4.4), (4.8, 0.0), (2.4, 4.4), (-2.4, 4.4), (-4.8, 0.0)]),
        _ => polygon(&[(-5.0, -4.4), (0.0, -1.6), (5.0, -4.4), (5.0, 4.4), (0.0, 1.6), (-5.0, 4.4)]),
    }
}

/// A marker to stand in running text.
pub fn key(look: Look) -> String {
    let class = look.class();
    format!(
        "<svg class=\"key\" aria-hidden=\"true\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\">\
         <g class=\"{class}\">{}</g></svg>",
        look.marker((7.0, 7.0), 1.0, "")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_of_64_methods_look_alike() {
        let looks = (0..64).map(Look::new).map(|look| (look.class(), look.shape(), look.is_hollow()));
        assert_eq!(looks.collect::<HashSet<_>>().len(), 64);
        assert_eq!((Look::FULL.class().as_str(), Look::new(9).class().as_str()), ("cf", "c1"));
    }

    #[test]
    fn each_shape_has_its_own_outline() {
        assert_eq!(
            (0..SHAPES).map(|shape| outline(shape, 1.0, 0.0, 0.0)).collect::<HashSet<_>>().len(),
            SHAPES
        );
    }
}
