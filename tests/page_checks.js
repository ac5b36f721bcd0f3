// What is wrong with a page for people who see little or use no mouse: a list of sentences.
(() => {
  const wrong = [];

  // Colours as numbers: the browser paints them, whatever their notation.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function painted(colour) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }
  function over(front, back) {
    const share = front[3];
    return [0, 1, 2].map((i) => front[i] * share + back[i] * (1 - share)).concat(1);
  }
  function background(element) {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(painted(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
  }
  // Relative luminance and contrast, WCAG 2.1.
  function luminance(colour) {
    const [r, g, b] = colour.slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  function contrast(a, b) {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  }

  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(element)) continue;
    seen.add(element);
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const isDrawn = element instanceof SVGElement;
    const back = background(element);
    const ratio = contrast(over(painted(isDrawn ? style.fill : style.color), back), back);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${element.tagName}.${element.getAttribute("class")} ${walker.currentNode.data.trim().slice(0, 40)}`);
  }

  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!field.labels.length && !field.getAttribute("aria-label")) wrong.push(`no label: ${field.outerHTML.slice(0, 80)}`);
  for (const image of document.querySelectorAll("img:not([alt])")) wrong.push(`no alt: ${image.outerHTML.slice(0, 80)}`);
  for (const svg of document.querySelectorAll("svg:not([aria-hidden=true])"))
    if (!svg.getAttribute("aria-label") && !svg.querySelector(":scope > title")) wrong.push(`no name: ${svg.outerHTML.slice(0, 80)}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((id, place) => ids.indexOf(id) !== place))) wrong.push(`id twice: ${id}`);
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) wrong.push("not one main");
  if (!document.documentElement.lang) wrong.push("no language");
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`wider than the screen by ${document.documentElement.scrollWidth - innerWidth} px`);
  return wrong;
})()
