//! The view on a terminal, drawn anew each interval until a key ends it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Row, Sparkline, Table, Wrap};
use ratatui::{Frame, widgets};

use super::lines::{self, count};
use super::view::View;
use super::{Moment, ask};

/// How many intervals the picture of the requests goes back.
const HISTORY: usize = 512;

/// Rows of the picture of the requests, with its title.
const PICTURE_ROWS: u16 = 4;

/// What is on the screen.
#[derive(Debug, Default)]
struct Screen {
    view: Option<View>,
    /// Requests a second, the newest last.
    history: VecDeque<u64>,
    /// Why there are no new numbers.
    trouble: Option<String>,
    paused: bool,
}

/// Shows the server until `q` or its like is typed. The terminal is left as it was found, also
/// by a panic.
pub(super) fn run(state_dir: &Path, interval: Duration, mut before: Moment) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut screen = Screen::default();
    let mut due = Instant::now() + interval;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| screen.draw(frame)) {
            break Err(error);
        }
        match typed_before(due) {
            Ok(Some(Typed::Quit)) => break Ok(()),
            Ok(Some(Typed::Pause)) => screen.paused = !screen.paused,
            Ok(Some(Typed::Other)) => {}
            Ok(None) => {
                due = Instant::now() + interval;
                if !screen.paused {
                    screen.look(state_dir, &mut before);
                }
            }
            Err(error) => break Err(error),
        }
    };
    ratatui::try_restore()?;
    ended
}

enum Typed {
    Quit,
    Pause,
    /// Another key, or another size of the terminal.
    Other,
}

/// What is typed before the next look is due; none when it is.
fn typed_before(due: Instant) -> io::Result<Option<Typed>> {
    if !event::poll(due.saturating_duration_since(Instant::now()))? {
        return Ok(None);
    }
    let Event::Key(key) = event::read()? else { return Ok(Some(Typed::Other)) };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(Some(match key.code {
        _ if key.kind != KeyEventKind::Press => Typed::Other,
        KeyCode::Char('q') | KeyCode::Esc => Typed::Quit,
        KeyCode::Char('c' | 'd') if control => Typed::Quit,
        KeyCode::Char('p' | ' ') => Typed::Pause,
        _ => Typed::Other,
    }))
}

impl Screen {
    /// Asks the server anew. One that went away may come back.
    fn look(&mut self, state_dir: &Path, before: &mut Moment) {
        match ask(state_dir) {
            Ok(now) => {
                let view = View::between(before, &now);
                *before = now;
                self.trouble = None;
                if self.history.len() == HISTORY {
                    self.history.pop_front();
                }
                self.history.push_back(view.requests as u64);
                self.view = Some(view);
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let Some(view) = &self.view else {
            frame.render_widget(Line::from("waiting for the first numbers; q ends"), area);
            return;
        };
        let summary = lines::summary(view).join(" · ");
        let wrapped = widgets::Paragraph::new(summary.clone()).wrap(Wrap { trim: true });
        let width = usize::from(area.width.max(1));
        let summary_rows = u16::try_from(summary.chars().count().div_ceil(width) + 1).unwrap_or(2);
        let tables = lines::tables(view);
        let heights = tables.iter().map(|it| u16::try_from(it.rows.len() + 3).unwrap_or(u16::MAX));
        let rows = [1, summary_rows, PICTURE_ROWS].into_iter().chain(heights);
        let constraints =
            rows.map(Constraint::Length).chain([Constraint::Min(0), Constraint::Length(1)]);
        let areas = Layout::vertical(constraints).split(area);
        frame.render_widget(Line::from(view.head.join(" · ")).bold(), areas[0]);
        frame.render_widget(wrapped, areas[1]);
        self.draw_picture(frame, areas[2], view);
        for (table, area) in tables.into_iter().zip(areas.iter().skip(3)) {
            draw_table(frame, *area, table);
        }
        frame.render_widget(self.foot(), areas[areas.len() - 1]);
    }

    fn draw_picture(&self, frame: &mut Frame<'_>, area: Rect, view: &View) {
        let title = format!(" {} requests/s ", count(view.requests));
        let room = usize::from(area.width.saturating_sub(2));
        let newest: Vec<u64> =
            self.history.iter().skip(self.history.len().saturating_sub(room)).copied().collect();
        let picture = Sparkline::default().data(&newest).green();
        frame.render_widget(picture.block(Block::bordered().title(title)), area);
    }

    fn foot(&self) -> Line<'static> {
        let keys = Span::from("q ends, p pauses").dim();
        match (&self.trouble, self.paused) {
            (Some(trouble), _) => Line::from(vec![format!("no answer: {trouble}  ").red(), keys]),
            (None, true) => Line::from(vec!["paused  ".yellow(), keys]),
            (None, false) => Line::from(keys),
        }
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, table: lines::Table) {
    let lines::Table { title, names, rows } = table;
    let widths: Vec<Constraint> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            let width = cells.chain([name.chars().count()]).max().unwrap_or(0);
            Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
        })
        .collect();
    let head = Row::new(names).style(Style::new().add_modifier(Modifier::DIM));
    let block = Block::new().borders(Borders::TOP).title(format!(" {title} "));
    let rows = rows.into_iter().map(Row::new);
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(2).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::tests::a_second;
    use super::*;

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_parts_are_there_at_any_size() {
        let history = VecDeque::from([10, 110]);
        let view = Some(a_second());
        let mut screen = Screen { view, history, ..Screen::default() };
        let text = drawn(&screen, 120, 40);
        for part in
            ["emberd 1.2.3", "110 requests/s", "/hello", "901us", "reply_recv linked", "q ends"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        screen.trouble = Some("gone".to_owned());
        assert!(drawn(&screen, 120, 40).contains("no answer: gone"));
        // As small as it gets: nothing but no panic is asked.
        for (width, height) in [(1, 1), (20, 5), (300, 4)] {
            drawn(&screen, width, height);
        }
    }
}
