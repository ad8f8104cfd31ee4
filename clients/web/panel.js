// The live panel: four numbers and the buffer's last minute as a line.

const SPAN_MS = 60_000;
const SAMPLE_MS = 250;

export class Panel {
  /**
   * @param {{fps: HTMLElement, chunk: HTMLElement, buffer: HTMLElement, stalls: HTMLElement,
   *   spark: HTMLCanvasElement, sparkMax: HTMLElement}} elements
   */
  constructor(elements) {
    this.elements = elements;
    this.samples = [];
    this.sampledAt = -Infinity;
    this.config = null;
    this.draw(0);
  }

  begin(config) {
    this.config = config;
  }

  reset() {
    this.samples = [];
    this.sampledAt = -Infinity;
    for (const name of ["fps", "chunk", "buffer", "stalls"]) this.elements[name].textContent = "–";
    this.draw(0);
  }

  /** Show `stats` as LongtakeStream gives them; cheap to call for every picture. */
  update(stats, now) {
    if (now - this.sampledAt < SAMPLE_MS || !this.config) return;
    this.sampledAt = now;
    this.samples.push({ at: now, value: stats.bufferedMs / 1000 });
    while (this.samples[0].at < now - SPAN_MS) this.samples.shift();
    const { fps, chunk, buffer, stalls } = this.elements;
    fps.innerHTML = number(stats.fps.toFixed(1), "fps");
    const allowed = (1000 * this.config.chunk_frames) / this.config.fps;
    if (stats.chunkMs !== null) {
      chunk.innerHTML = number(Math.round(stats.chunkMs), `of ${Math.round(allowed)} ms`);
      chunk.classList.toggle("warn", stats.chunkMs > allowed);
    }
    buffer.innerHTML = number((stats.bufferedMs / 1000).toFixed(2), "s");
    const waited = stats.stalls ? `${(stats.stalledMs / 1000).toFixed(1)} s` : "";
    stalls.innerHTML = number(stats.stalls, waited);
    stalls.classList.toggle("warn", stats.stalls > 0);
    this.draw(now);
  }

  draw(now) {
    const { spark, sparkMax } = this.elements;
    const context = spark.getContext("2d");
    const { width, height } = spark;
    context.clearRect(0, 0, width, height);
    const most = Math.max(1, ...this.samples.map((sample) => sample.value));
    sparkMax.textContent = this.samples.length ? `${most.toFixed(1)} s` : "";
    context.strokeStyle = "#2a2e37";
    context.lineWidth = 2;
    for (const y of [2, height / 2, height - 2]) {
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(width, y);
      context.stroke();
    }
    if (this.samples.length < 2) return;
    const x = ({ at }) => width - ((now - at) / SPAN_MS) * width;
    const y = ({ value }) => height - 4 - (value / most) * (height - 8);
    context.beginPath();
    this.samples.forEach((s, i) => (i ? context.lineTo(x(s), y(s)) : context.moveTo(x(s), y(s))));
    context.strokeStyle = "#f0a070";
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, height);
    context.lineTo(x(this.samples[0]), height);
    context.fillStyle = "#f0a07018";
    context.fill();
  }
}

/** A number with its unit set smaller; both are our own, never a server's text. */
function number(value, unit) {
  return unit ? `${value} <small>${unit}</small>` : String(value);
}
