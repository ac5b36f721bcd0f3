// Pages of what is still being recorded: they ask for what is new, and stop when it has ended.

const STEP_MS = 500;
const TABLE_MS = 1000;
const IDLE_MS = 10000;

// Asks again and again while the page is visible, the less often the longer an answer takes.
function poll(ask) {
  let timer;
  let isBusy = false;
  async function once() {
    clearTimeout(timer);
    if (document.hidden || isBusy) return;
    isBusy = true;
    const start = performance.now();
    let wait = null;
    try {
      wait = await ask();
    } catch {
      wait = IDLE_MS;
      tellSilence();
    }
    isBusy = false;
    if (wait !== null) timer = setTimeout(once, Math.max(wait, 4 * (performance.now() - start)));
    else document.removeEventListener("visibilitychange", once);
  }
  document.addEventListener("visibilitychange", once);
  timer = setTimeout(once, STEP_MS);
  return once;
}

async function get(address) {
  const answer = await fetch(address);
  if (answer.status === 204) return null;
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

function tellSilence() {
  let note = document.getElementById("silence");
  if (!note) {
    note = document.createElement("p");
    note.id = "silence";
    note.className = "note failed";
    note.setAttribute("role", "status");
    document.querySelector("main, .head").prepend(note);
  }
  note.textContent = `The viewer has not answered since ${new Date().toLocaleTimeString()}: what is shown may be old. It is asked again.`;
}

function breakSilence() {
  document.getElementById("silence")?.remove();
}

export function followEpisode(episode) {
  const { data, steps, html } = episode;
  let version = data.version;
  let follows = false;
  let seen = null;

  function isAt(id) {
    return document.getElementById(id).contains(document.activeElement);
  }

  function put(id, text) {
    const element = document.getElementById(id);
    // What somebody is about to use stays as it is until they leave it.
    if (!element || isAt(id)) return;
    const open = [...element.querySelectorAll("details")].map((part) => part.open);
    element.innerHTML = html(text);
    element.querySelectorAll("details").forEach((part, place) => (part.open = open[place] ?? part.open));
  }

  function point(place, step, words) {
    const old = steps.querySelector(`:scope > a.more.${place}`);
    if (step === null) return old?.remove();
    const link = old ?? document.createElement("a");
    link.className = `more ${place}`;
    link.href = `/e/${data.id}/${step}`;
    link.textContent = words;
    if (!old) place === "earlier" ? steps.querySelector("ol").before(link) : steps.append(link);
  }

  function takeRows(news) {
    const list = steps.querySelector("ol");
    for (const [step, text] of news.rows) {
      const box = document.createElement("template");
      box.innerHTML = html(text);
      const line = box.content.querySelector("li");
      const old = document.getElementById(`s${step}`);
      if (!old) list.append(line);
      else {
        const hasFocus = old === document.activeElement;
        const row = line.firstElementChild;
        if (old.hasAttribute("aria-current")) {
          row.setAttribute("aria-current", "step");
          row.tabIndex = 0;
        }
        old.parentElement.replaceWith(line);
        if (hasFocus) row.focus({ preventScroll: true });
      }
    }
    while (list.firstElementChild && Number(list.firstElementChild.firstElementChild.dataset.step) < news.first)
      list.firstElementChild.remove();
    point("earlier", news.before, `earlier steps, to ${news.before}`);
    point("later", news.after, `later steps, from ${news.after}`);
  }

  function take(news) {
    if (!steps) return location.reload();
    seen = Date.now();
    const scrolled = steps.scrollTop;
    takeRows(news);
    put("facts", news.facts);
    put("live", news.live);
    put("legend", news.legend);
    const timeline = document.getElementById("timeline");
    timeline.dataset.first = news.start;
    timeline.dataset.count = news.count;
    put("timeline", news.timeline);
    data.failed = news.failed.join(" ");
    data.last = news.last;
    version = news.version;
    steps.scrollTop = scrolled;
    episode.grown(news.rows.map(([step]) => step));
    showButton();
    if (follows) episode.go(news.last);
  }

  async function ask() {
    const numbers = episode.numbers();
    const given = new URLSearchParams({
      version,
      first: numbers[0] ?? 0,
      last: numbers.at(-1) ?? -1,
      tail: steps?.querySelector(":scope > a.more.later") ? 0 : 1,
      follow: follows ? 1 : 0,
    });
    const news = await get(`/e/${data.id}/live?${given}`);
    breakSilence();
    if (news) take(news);
    if (news && !news.isLive) return null;
    showAge();
    return STEP_MS;
  }

  function showAge() {
    const age = document.getElementById("age");
    if (!age) return;
    const time = age.dataset.ms ? Number(age.dataset.ms) : seen;
    if (time === null) return;
    const past = Math.max(0, Math.round((Date.now() - time) / 1000));
    const words = past < 90 ? `${past} s` : past < 5400 ? `${Math.round(past / 60)} min` : `${Math.round(past / 3600)} h`;
    age.textContent = age.dataset.ms ? ` (${words} ago)` : `; new steps were seen ${words} ago`;
  }

  function showButton() {
    document.getElementById("follow")?.setAttribute("aria-pressed", String(follows));
  }

  function toggle() {
    follows = !follows;
    showButton();
    if (!follows) return;
    // If the newest steps are not in the list, all lines are asked for.
    if (steps?.querySelector(":scope > a.more.later")) version = "";
    else if (data.last !== "") episode.go(Number(data.last));
    now();
  }

  document.addEventListener("click", (event) => {
    if (event.target.id === "follow") toggle();
  });
  const now = poll(ask);
  showAge();
  return { toggle, stop: () => follows && toggle() };
}

export function followTable(html) {
  const main = document.getElementById("episodes");
  let version = main.dataset.version;

  // The row at the top of the screen stays there: new episodes may come above it.
  function anchor() {
    if (scrollY < 1) return () => {};
    const row = [...main.querySelectorAll("tbody a.id")].find((link) => link.getBoundingClientRect().top > 0);
    if (!row) return () => {};
    const { top } = row.getBoundingClientRect();
    return () => {
      const again = find(row.getAttribute("href"));
      if (again) scrollBy(0, again.getBoundingClientRect().top - top);
    };
  }

  function find(address) {
    return [...main.querySelectorAll("a")].find((link) => link.getAttribute("href") === address);
  }

  function put(element, text) {
    const focused = element.contains(document.activeElement) ? document.activeElement : null;
    if (focused?.matches("input, select")) return;
    const address = focused?.getAttribute("href");
    const left = element.querySelector(".scroll")?.scrollLeft ?? 0;
    element.innerHTML = html(text);
    const scroll = element.querySelector(".scroll");
    if (scroll) scroll.scrollLeft = left;
    if (address) find(address)?.focus({ preventScroll: true });
  }

  let isLive = "recording" in main.dataset;
  poll(async () => {
    // A text that somebody has selected is not taken from under their hand.
    if (!getSelection().isCollapsed) return TABLE_MS;
    const given = new URLSearchParams(location.search);
    given.append("version", version);
    const news = await get(`/table?${given}`);
    breakSilence();
    if (news) {
      const restore = anchor();
      put(main, news.episodes);
      put(document.getElementById("facets"), news.facets);
      restore();
      version = news.version;
      isLive = news.isLive;
    }
    return isLive ? TABLE_MS : IDLE_MS;
  });
}
