// Where the system has no language, as with LANG=C, Chromium names one that no formatter knows, and uPlot would not load.
try {
  new Intl.NumberFormat(navigator.language);
} catch {
  Object.defineProperty(navigator, "language", { value: "en-US" });
}
