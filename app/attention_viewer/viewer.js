// The viewer: a caption whose words and photo answer each other. Nothing here asks the server, except `choose`, which
// has it write another caption, and `beam`, which tells it which one is open.
//
// Data: id (of what is shown: another id starts anew), view {map, opacity, smooth, scale, palette}, forced (how many words
// were chosen by hand), focus (whether the visitor has just chosen one, or none), panel (whether words are told of beside the photo), autoplay, beamsTitle, photo {url, name, width, height}, beam (number of the one to open), panes [{label, grid [rows, columns], region
// [left, top, right, bottom] as shares of the photo, beams}], a beam {text, words, ended, logProb, probs, betas, entropies,
// maps, tops, locations, choices}; `maps` is base64 of T x rows x columns bytes, 255 standing for the word's `tops`.
// Panes hold the same words under different models.

const PLAY_MS = 600;
const FINE = 12; // samples to a cell's side when a map is smoothed
const GLOW = [255, 214, 60];
const GLOW_SHARE = 0.25;

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const host = parentElement.querySelector(".viewer");
  host.viewer ??= new Viewer(host);
  host.viewer.show(data, setStateValue, setTriggerValue);
}

class Viewer {
  constructor(host) {
    this.host = host;
    this.beam = 0;
    this.pinned = null; // number of a word
    this.pointed = null; // the word under the pointer or the focus
    this.at = null; // [x, y] of the pointer as shares of the photo
    this.over = null; // the pane whose photo that is
    this.everything = false;
    this.timer = null;
  }

  show(data, setState, trigger) {
    const isNew = this.data?.id !== data.id;
    this.data = data;
    this.setState = setState;
    this.trigger = trigger;
    if (isNew) {
      this.stop();
      Object.assign(this, { beam: data.beam, pinned: null, pointed: null, at: null, everything: false });
      this.build();
    }
    this.palette = decode(data.view.palette);
    this.panes.forEach((pane) => pane.fields.clear());
    // Whoever chose a word is brought back to it; what had the focus is gone.
    if (isNew && data.focus) this.words[clamp(data.forced - 1, 0, this.words.length - 1)].focus({ preventScroll: true });
    if (isNew && data.autoplay && !reducedMotion()) this.play();
    this.paint();
  }

  // --- What is there, made anew for every caption ---------------------------------------------------------------

  build() {
    const { data } = this;
    this.panes = data.panes.map((pane) => ({ ...pane, fields: new Map() }));
    [this.over] = this.panes;
    this.caption = element("div", { className: "caption", role: "toolbar", ariaLabel: "Words of the caption" });
    this.caption.onkeydown = (event) => this.onKey(event);
    this.caption.onpointerleave = () => this.timer || this.point(null, false); // what plays goes on
    const photos = element("div", { className: "photos" }, this.panes.map((pane) => this.buildPhoto(pane)));
    this.here = element("p", { className: "here" });
    this.here.setAttribute("aria-live", "polite");
    const main = element("div", { className: "main" }, [this.caption, this.buildBar(), photos, this.here]);
    this.panel = data.panel ? this.buildPanel() : null;
    this.host.replaceChildren(element("div", { className: data.panel ? "layout" : "" }, this.panel ? [main, this.panel] : [main]));
    this.host.classList.toggle("pair", this.panes.length > 1);
    this.resizing?.disconnect();
    this.resizing = new ResizeObserver(() => this.paint());
    this.panes.forEach((pane) => this.resizing.observe(pane.stage));
    this.buildWords();
  }

  buildPhoto(pane) {
    const { photo } = this.data;
    pane.canvas = element("canvas", { className: "heat", role: "img" });
    pane.stage = element("div", { className: "stage", tabIndex: 0, role: "group" }, [
      element("img", { src: photo.url, alt: "", draggable: false }), // the canvas over it speaks for both
      pane.canvas,
    ]);
    pane.stage.dataset.photo = photo.name;
    pane.stage.ariaLabel = `The photo${pane.label && `, ${pane.label}`}. Arrow keys move over it; the words that looked there light up.`;
    // A strip of a photo is drawn less narrow than it is, or nothing would be seen.
    pane.stage.style.setProperty("--ratio", clamp(photo.width / photo.height, 1 / 8, 8));
    pane.stage.onpointermove = (event) => this.hover(placeOf(pane, event), pane);
    pane.stage.onpointerdown = pane.stage.onpointermove;
    pane.stage.onpointerleave = (event) => event.pointerType === "mouse" && this.hover(null);
    pane.stage.onkeydown = (event) => this.onPhotoKey(event, pane);
    pane.stage.onblur = () => this.over === pane && this.hover(null);
    const figure = element("figure", {}, [pane.stage]);
    if (pane.label) figure.append(element("figcaption", { textContent: pane.label }));
    return figure;
  }

  buildBar() {
    this.playButton = button("Play", () => (this.timer ? this.stop() : this.play()));
    this.playButton.className = "play";
    if (reducedMotion()) {
      this.playButton.disabled = true;
      this.playButton.title = "Off, for your system asks for less motion";
    }
    this.everythingButton = button("Everything it looked at", () => {
      this.stop();
      this.everything = !this.everything;
      this.pinned = this.pointed = null;
      this.paint();
    });
    return element("div", { className: "bar" }, [
      this.playButton,
      this.everythingButton,
      element("span", { className: "hint", textContent: "Point at a word, or at the photo" }),
    ]);
  }

  buildPanel() {
    this.details = element("section", { className: "details" });
    this.beamList = element("div", { className: "beams" });
    this.copyButton = button("Copy caption", () => this.copy());
    const actions = element("div", { className: "actions" }, [this.copyButton]);
    if (this.data.forced) actions.append(button("Back to its own words", () => this.trigger("choose", { words: [] })));
    const beams = element("section", {}, [element("h2", { textContent: this.data.beamsTitle }), this.beamList]);
    const parts = [actions, beams, this.details];
    return element("aside", { className: "panel", ariaLabel: "Details" }, parts);
  }

  buildWords() {
    const { words, ended, probs } = this.current();
    const counts = count(words);
    this.words = words.map((word, t) => {
      const bar = element("span", { className: "bar-of-p" });
      bar.style.setProperty("--p", probs[t]);
      const node = element("button", { className: "word", type: "button", tabIndex: t ? -1 : 0 }, [
        element("span", { textContent: word }),
        bar,
      ]);
      node.classList.toggle("forced", t < this.data.forced);
      node.classList.toggle("clitic", word.startsWith("'") || word === "n't");
      const which = counts.get(word).length > 1 ? `, ${ordinal(counts.get(word).indexOf(t) + 1)} “${word}”` : "";
      const where = this.panes.map((pane) => describePlace(pane, this.weights(pane, t), pane.beams[this.beam].locations?.[t])).join("; ");
      node.ariaLabel = `${word}${which}, word ${t + 1} of ${words.length}, probability ${percent(probs[t])}, looked ${where}`;
      node.onpointerenter = (event) => event.pointerType === "mouse" && this.point(t, true);
      node.onfocus = () => this.point(t, true);
      node.onblur = () => this.pointed === t && this.point(null, false);
      node.onclick = () => this.pin(t);
      return node;
    });
    this.caption.replaceChildren(...this.words, element("span", { className: "stop", textContent: ended ? "." : " …" }));
    if (this.panel) this.buildBeams();
  }

  buildBeams() {
    const { beams } = this.panes[0];
    this.beamList.replaceChildren(
      ...beams.map((beam, index) => {
        const node = button("", () => this.swap(index));
        node.append(
          element("span", { className: "text", textContent: beam.text }),
          element("span", { className: "number", textContent: beam.logProb.toFixed(2), title: "Log-probability. They are ranked by it and by their length" }),
        );
        node.ariaPressed = String(index === this.beam);
        return node;
      }),
    );
  }

  // --- What the visitor does ------------------------------------------------------------------------------------

  point(t, byHand) {
    if (byHand) this.stop();
    if (t !== null) this.at = null;
    this.pointed = t;
    this.paint();
  }

  pin(t) {
    this.stop();
    this.pinned = this.pinned === t ? null : t;
    this.everything = false;
    this.paint();
  }

  hover(at, pane = this.panes[0]) {
    if (at) {
      this.stop();
      this.pointed = null;
    }
    Object.assign(this, { at, over: pane });
    this.paint();
  }

  swap(index) {
    this.stop();
    Object.assign(this, { beam: index, pinned: null, pointed: null, everything: false });
    this.buildWords();
    this.beamList.children[index].focus();
    this.paint();
    this.setState("beam", { id: this.data.id, index });
  }

  play() {
    this.pinned = null;
    this.everything = false;
    this.at = null;
    this.pointed = 0;
    this.timer = setInterval(() => {
      // A viewer that was taken off the page has nothing to play to.
      if (this.pointed + 1 >= this.words.length || !this.host.isConnected) {
        this.stop();
        this.pointed = null;
      } else {
        this.pointed += 1;
      }
      this.paint();
    }, PLAY_MS);
    this.paint();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
  }

  onKey(event) {
    if (isShortcut(event)) return;
    const last = this.words.length - 1;
    const at = this.words.indexOf(event.target.closest(".word"));
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") {
      this.pinned = null;
      this.paint();
    } else if (to !== undefined) {
      event.preventDefault();
      this.words[Math.min(Math.max(to, 0), last)].focus();
    }
  }

  onPhotoKey(event, pane) {
    if (isShortcut(event)) return;
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") this.hover(null);
    if (!step) return;
    event.preventDefault();
    const [rows, columns] = pane.grid;
    const [row, column] = cellOf(pane, this.at) ?? [Math.floor(rows / 2) - step[0], Math.floor(columns / 2) - step[1]];
    this.hover(middleOf(pane, [clamp(row + step[0], 0, rows - 1), clamp(column + step[1], 0, columns - 1)]), pane);
  }

  async copy() {
    const { text, ended } = this.current();
    try {
      await navigator.clipboard.writeText(text + (ended ? "." : ""));
      this.copyButton.textContent = "Copied";
    } catch {
      // Browsers keep the clipboard from pages that came neither by https nor from this machine.
      const field = element("textarea", { value: text + (ended ? "." : ""), readOnly: true, rows: 2, ariaLabel: "Caption" });
      this.copyButton.after(field);
      field.select();
      field.onblur = () => field.remove();
      this.copyButton.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => (this.copyButton.textContent = "Copy caption"), 1500);
  }

  // --- What is drawn --------------------------------------------------------------------------------------------

  paint() {
    if (!this.words) return;
    const word = this.pointed ?? (this.at ? null : this.pinned);
    const cell = cellOf(this.over, this.at);
    const tinted = cell !== null;
    this.words.forEach((node, t) => {
      node.classList.toggle("active", t === word);
      node.ariaPressed = String(t === this.pinned);
      const strength = tinted ? this.strengthAt(this.over, t, cell) : 0;
      node.style.setProperty("--tint", strength.toFixed(3));
    });
    this.caption.classList.toggle("tinted", tinted);
    const stop = this.words.findIndex((_, t) => t === (word ?? this.pinned ?? 0));
    this.words.forEach((node, t) => (node.tabIndex = t === stop ? 0 : -1));
    this.everythingButton.ariaPressed = String(this.everything);
    this.playButton.textContent = this.timer ? "❚❚ Stop" : "▶ Play";
    this.here.textContent = tinted ? this.tellCell(cell) : "";
    // What one points at stays apart from what one has chosen.
    const shown = this.pointed ?? (this.everything ? "everything" : this.pinned);
    this.panes.forEach((pane) => this.paintPane(pane, shown));
    if (this.panel) this.paintDetails(shown);
  }

  paintPane(pane, what) {
    const { photo, view } = this.data;
    const { region, grid } = pane;
    const box = pane.stage.getBoundingClientRect();
    if (!box.width) return;
    const scale = Math.min(devicePixelRatio || 1, 1280 / Math.max(box.width, box.height));
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    const { canvas } = pane;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const [left, top, right, bottom] = region.map((edge, i) => edge * (i % 2 ? height : width));
    if (what !== null) {
      if (view.map === "spotlight") {
        context.fillStyle = `rgba(0, 0, 0, ${view.opacity})`;
        [[0, 0, width, top], [0, bottom, width, height - bottom], [0, top, left, bottom - top], [right, top, width - right, bottom - top]].forEach(
          (rest) => context.fillRect(...rest),
        );
      }
      context.imageSmoothingEnabled = view.smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.heat(pane, what), left, top, right - left, bottom - top);
    }
    const cellBox = ([row, column]) => [
      left + (column * (right - left)) / grid[1],
      top + (row * (bottom - top)) / grid[0],
      (right - left) / grid[1],
      (bottom - top) / grid[0],
    ];
    const { locations } = pane.beams[this.beam];
    if (locations && typeof what === "number") frame(context, cellBox(locations[what]), 3 * scale);
    const cell = cellOf(pane, this.at);
    if (cell) frame(context, cellBox(cell), 1.5 * scale);
    const looked = what === "everything" ? "everything it looked at" : what === null ? "" : `where the model looked for “${this.current().words[what]}”`;
    canvas.ariaLabel = `Photo, captioned “${this.current().text}”, ${looked ? `with ${looked}` : "as it is"}`;
  }

  /** A map as a small picture: what is not looked at is transparent, or dark under the spotlight. */
  heat(pane, what) {
    const key = `${this.beam} ${what}`;
    if (pane.fields.has(key)) return pane.fields.get(key);
    const { view } = this.data;
    const strengths = this.strengths(pane, what);
    const [values, rows, columns] = view.smooth ? enlarge(strengths, ...pane.grid) : [strengths, ...pane.grid];
    const picture = element("canvas", { width: columns, height: rows });
    const context = picture.getContext("2d");
    const image = context.createImageData(columns, rows);
    values.forEach((value, i) => image.data.set(colour(value, view, this.palette), 4 * i));
    context.putImageData(image, 0, 0);
    pane.fields.set(key, picture);
    return picture;
  }

  paintDetails(what) {
    const beam = this.current();
    // Not made anew in vain: a button in it may have the focus.
    const told = `${this.data.id} ${this.beam} ${what}`;
    if (this.told === told) return;
    this.told = told;
    if (typeof what !== "number") {
      this.details.replaceChildren(
        element("h2", { textContent: what ? "All words together" : "No word chosen" }),
        element("p", {
          className: "quiet",
          textContent: what
            ? "The photo shows the sum of where the model looked for each word."
            : "Point at a word to see where the model looked for it, or at the photo to see which words looked there. Click a word to keep it.",
        }),
      );
      return;
    }
    const bits = beam.entropies[what];
    const most = Math.log2(cells(this.panes[0])) || 1; // of a single cell
    const parts = [
      element("h2", {}, [element("q", { textContent: beam.words[what] }), element("small", { textContent: `word ${what + 1} of ${beam.words.length}` })]),
      meter("Probability", beam.probs[what], percent(beam.probs[what]), "Given the words before it"),
      meter("Used the photo", beam.betas[what], percent(beam.betas[what]), "Beta, the gate: how much of what it saw it let through for this word"),
      spread(bits / most, `${bits.toFixed(1)} bits`),
    ];
    if (beam.choices.length) parts.push(this.listChoices(what, beam));
    this.details.replaceChildren(...parts);
  }

  listChoices(word, beam) {
    const list = element("div", { className: "choices" });
    for (const [choice, probability] of beam.choices[word]) {
      const label = choice === "." ? "(end here)" : choice;
      const node = button("", () => this.trigger("choose", { words: [...beam.words.slice(0, word), choice] }));
      node.append(element("span", { textContent: label }), element("span", { className: "number", textContent: percent(probability) }));
      node.style.setProperty("--p", probability);
      node.title = choice === "." ? "End the caption here" : `Go on with “${choice}” from here`;
      node.disabled = choice === beam.words[word];
      list.append(node);
    }
    return element("div", {}, [element("h3", { textContent: "It could have said" }), list]);
  }

  // --- Numbers --------------------------------------------------------------------------------------------------

  current() {
    return this.panes[0].beams[this.beam];
  }

  /** Weights of a word's cells; they sum to 1. */
  weights(pane, t) {
    const beam = pane.beams[this.beam];
    beam.bytes ??= decode(beam.maps);
    const size = cells(pane);
    return Float32Array.from(beam.bytes.subarray(t * size, (t + 1) * size), (byte) => (byte / 255) * beam.tops[t]);
  }

  /** Weights brought to 0..1: by the word's own peak, or by the median of all words' peaks. */
  strengths(pane, what) {
    const { words, tops } = pane.beams[this.beam];
    if (what === "everything") {
      const sum = new Float32Array(cells(pane));
      words.forEach((_, t) => this.weights(pane, t).forEach((weight, i) => (sum[i] += weight)));
      const most = Math.max(...sum);
      return sum.map((value) => value / most);
    }
    const peak = this.data.view.scale === "word" ? tops[what] : median(tops);
    return this.weights(pane, what).map((weight) => Math.min(weight / peak, 1));
  }

  strengthAt(pane, t, [row, column]) {
    return this.strengths(pane, t)[row * pane.grid[1] + column];
  }

  tellCell([row, column]) {
    const pane = this.over;
    const found = this.current().words.map((word, t) => [word, this.weights(pane, t)[row * pane.grid[1] + column]]);
    found.sort((a, b) => b[1] - a[1]);
    const told = found.slice(0, 3).map(([word, weight]) => `“${word}” ${percent(weight)}`);
    return `${pane.label && `${pane.label}. `}Of each look, this place had: ${told.join(", ")}`;
  }
}

// --- Small things -------------------------------------------------------------------------------------------------

function element(tag, properties = {}, children = []) {
  const node = document.createElement(tag);
  Object.assign(node, properties);
  node.append(...children);
  return node;
}

function button(text, act) {
  return element("button", { type: "button", textContent: text, onclick: act });
}

function meter(name, value, text, title) {
  const fill = element("span", { className: "fill" });
  fill.style.setProperty("--p", value);
  return element("div", { className: "meter", title }, [
    element("span", { textContent: name }),
    element("span", { className: "number", textContent: text }),
    element("span", { className: "track" }, [fill]),
  ]);
}

function spread(share, text) {
  const mark = element("span", { className: "mark" });
  mark.style.setProperty("--p", share);
  return element("div", { className: "meter", title: "Entropy of where it looked: 0 bits is a single cell" }, [
    element("span", { textContent: "Its look" }),
    element("span", { className: "number", textContent: text }),
    element("span", { className: "track" }, [mark]),
    element("span", { className: "ends" }, [element("span", { textContent: "focused" }), element("span", { textContent: "spread" })]),
  ]);
}

function frame(context, [x, y, width, height], thickness) {
  for (const [style, extra] of [["rgba(0, 0, 0, 0.7)", 2], ["white", 0]]) {
    context.strokeStyle = style;
    context.lineWidth = thickness + extra;
    context.strokeRect(x, y, width, height);
  }
}

function colour(value, view, palette) {
  if (view.map === "spotlight") {
    // Dark laid over the photo, then the glow over that, as one layer.
    const dark = view.opacity * (1 - value);
    const glow = GLOW_SHARE * value;
    const alpha = 1 - (1 - dark) * (1 - glow);
    return [...GLOW.map((channel) => (alpha ? (channel * glow) / alpha : 0)), 255 * alpha];
  }
  const i = 3 * Math.round(255 * value);
  return [palette[i], palette[i + 1], palette[i + 2], 255 * view.opacity * Math.sqrt(value)];
}

/** Bicubic (Catmull-Rom) enlargement by FINE: the values, and their rows and columns. */
function enlarge(values, rows, columns) {
  const [high, wide] = [rows * FINE, columns * FINE];
  const across = new Float32Array(rows * wide);
  const out = new Float32Array(high * wide);
  taps(columns).forEach((found, x) => {
    for (let row = 0; row < rows; row++) {
      for (const [at, weight] of found) across[row * wide + x] += weight * values[row * columns + at];
    }
  });
  taps(rows).forEach((found, y) => {
    for (let x = 0; x < wide; x++) {
      let sum = 0;
      for (const [at, weight] of found) sum += weight * across[at * wide + x];
      out[y * wide + x] = clamp(sum, 0, 1);
    }
  });
  return [out, high, wide];
}

/** For every sample of an enlarged line, the four values it is made of and their weights. */
function taps(length) {
  return Array.from({ length: length * FINE }, (_, i) => {
    const x = (i + 0.5) / FINE - 0.5;
    const base = Math.floor(x);
    return [-1, 0, 1, 2].map((k) => [clamp(base + k, 0, length - 1), kernel(x - base - k)]);
  });
}

function kernel(x) {
  const d = Math.abs(x);
  if (d < 1) return 1.5 * d ** 3 - 2.5 * d ** 2 + 1;
  return d < 2 ? -0.5 * d ** 3 + 2.5 * d ** 2 - 4 * d + 2 : 0;
}

/** Say in words where in the photo a look lies, by its one cell or its largest weight: the ninth of the photo. */
function describePlace(pane, weights, location) {
  const most = Math.max(...weights);
  if (!location && most * weights.length < 1.05) return "everywhere alike";
  const peak = weights.indexOf(most);
  const [x, y] = middleOf(pane, location ?? [Math.floor(peak / pane.grid[1]), peak % pane.grid[1]]);
  const third = (share, names) => names[Math.min(Math.floor(3 * share), 2)];
  const place = [third(y, ["top", "", "bottom"]), third(x, ["left", "", "right"])].filter(Boolean).join(" ") || "middle";
  return `${location ? "at" : "most at"} the ${place}`;
}

function cells(pane) {
  return pane.grid[0] * pane.grid[1];
}

/** Where on the photo an event is, [x, y] as shares of it; null outside the part that the model sees. */
function placeOf(pane, event) {
  const box = pane.stage.getBoundingClientRect();
  const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  return cellOf(pane, at) && at;
}

/** The cell [row, column] at a place of the photo, if there is one. */
function cellOf({ grid, region }, at) {
  if (!at) return null;
  const [left, top, right, bottom] = region;
  const [x, y] = [(at[0] - left) / (right - left), (at[1] - top) / (bottom - top)];
  return x < 0 || x >= 1 || y < 0 || y >= 1 ? null : [Math.floor(y * grid[0]), Math.floor(x * grid[1])];
}

function middleOf({ grid, region }, [row, column]) {
  const [left, top, right, bottom] = region;
  return [left + ((column + 0.5) / grid[1]) * (right - left), top + ((row + 0.5) / grid[0]) * (bottom - top)];
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function count(words) {
  const places = new Map();
  words.forEach((word, t) => places.set(word, [...(places.get(word) ?? []), t]));
  return places;
}

function ordinal(n) {
  const suffix = { 1: "st", 2: "nd", 3: "rd" }[n % 10];
  return `${n}${suffix && Math.floor(n / 10) !== 1 ? suffix : "th"}`;
}

function percent(p) {
  return p > 0 && p < 0.01 ? "< 1 %" : `${Math.round(100 * p)} %`;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function decode(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** Whether a key belongs to the browser, such as Alt and an arrow, which goes back. */
function isShortcut(event) {
  return event.altKey || event.ctrlKey || event.metaKey;
}

function reducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
