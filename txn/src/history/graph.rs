//! Who depends on whom, and circles among them. It must never report a circle that is none.

/// Kinds of dependency, as bits.
pub const WW: u8 = 1;
pub const WR: u8 = 2;
pub const RW: u8 = 4;

/// Edges of each node.
pub struct Graph {
    edges: Vec<Vec<(usize, u8)>>,
}

impl Graph {
    pub fn new(nodes: usize) -> Graph {
        Graph { edges: vec![Vec::new(); nodes] }
    }

    pub fn add(&mut self, from: usize, to: usize, kind: u8) {
        if from != to {
            self.edges[from].push((to, kind));
        }
    }

    fn next(&self, from: usize, kinds: u8) -> impl Iterator<Item = usize> {
        self.edges[from].iter().filter(move |(_, kind)| kind & kinds != 0).map(|(to, _)| *to)
    }

    /// A circle of these kinds of edges.
    pub fn circle(&self, kinds: u8) -> Option<Vec<usize>> {
        find_circle(self.edges.len(), |from| self.next(from, kinds).collect())
    }

    /// A circle in which an rw always follows a ww or wr.
    pub fn circle_of_pairs(&self) -> Option<Vec<usize>> {
        let ends = find_circle(self.edges.len(), |from| {
            let mut ends = Vec::new();
            for middle in self.next(from, WW | WR) {
                ends.push(middle);
                ends.extend(self.next(middle, RW));
            }
            ends
        })?;
        let mut circle = Vec::with_capacity(ends.len() * 2);
        for (at, from) in ends.iter().enumerate() {
            let to = ends[(at + 1) % ends.len()];
            circle.push(*from);
            if !self.next(*from, WW | WR).any(|next| next == to) {
                let middle = |m: &usize| self.next(*m, RW).any(|next| next == to);
                circle.extend(self.next(*from, WW | WR).find(middle));
            }
        }
        Some(circle)
    }
}

/// Depth first, without recursion; nodes on the way back to one that is open are the circle.
fn find_circle(nodes: usize, next: impl Fn(usize) -> Vec<usize>) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Closed,
    }
    let mut marks = vec![Mark::New; nodes];
    for root in 0..nodes {
        if marks[root] != Mark::New {
            continue;
        }
        marks[root] = Mark::Open;
        let mut path = vec![(root, next(root))];
        while let Some((node, rest)) = path.last_mut() {
            let Some(to) = rest.pop() else {
                marks[*node] = Mark::Closed;
                path.pop();
                continue;
            };
            match marks[to] {
                Mark::Closed => {}
                Mark::New => {
                    marks[to] = Mark::Open;
                    path.push((to, next(to)));
                }
                Mark::Open => {
                    let way = path.iter().map(|(node, _)| *node);
                    return Some(way.skip_while(|node| *node != to).collect());
                }
            }
        }
    }
    None
}
